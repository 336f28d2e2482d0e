"""The models in every shape that tests build, the programs that run them, and the batches that they are run on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from support.answers import text_source

from lm.batch import BOS, EOS, Batch
from lm.config import ModelConfig
from lm.data.batches.buckets import pad_pairs
from lm.data.batches.layout import pad_rows
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.inputs import factor

VOCAB, HIDDEN = 11, 6
# Each choice of a model beside each of the others: attention, encoder, layers, tied, cell.
SHAPES = [
    ("none", "bidirectional", 2, False),
    ("none", "unidirectional", 1, True),
    ("dot", "bidirectional", 1, False),
    ("dot", "unidirectional", 2, True),
    ("additive", "bidirectional", 2, True),
    ("additive", "unidirectional", 1, False),
    ("none", None, 2, False),  # language models
    ("none", None, 1, True),
    ("none", "bidirectional", 1, False, "mlstm"),
    ("dot", "unidirectional", 2, False, "slstm"),
    ("none", None, 2, False, "rglru"),
    ("dot", "bidirectional", 2, False, "lstm", True),  # pointer-generators
    ("additive", "unidirectional", 1, True, "lstm", True),
    ("none", None, 2, True, "lstm", False, 2),  # with attention to their own past
    ("none", "bidirectional", 1, False, "gru", False, 9),
    ("dot", "unidirectional", 2, False, "lstm", True, 3),
    ("none", "decoder", 2, False),  # the decoder reads the source
    ("none", "decoder", 1, True, "lstm", False, 20),
]
LENGTHS = [(5, 3), (2, 6), (4, 1)]  # source and target, each without its EOS
PAIRS, ROWS, LONGEST = 5, 4, 4  # so that one row can hold all pairs


def config(
    attention="none",
    encoder="bidirectional",
    layers=1,
    tied=False,
    cell="lstm",
    copy=False,
    self_attention=0,
    **fields,
) -> ModelConfig:
    # The tied head reads features as wide as the embedding: attention brings them there, else the state must be so.
    embed_dim = HIDDEN if tied and attention == "none" else 4
    return ModelConfig(
        embed_dim=embed_dim,
        hidden_dim=HIDDEN,
        layers=layers,
        attention=attention,
        encoder=encoder or "bidirectional",
        tied=tied,
        cell=cell,
        copy=copy,
        self_attention=self_attention,
        **fields,
    )


@functools.cache
def built(config: ModelConfig, has_encoder: bool):
    """(model, parameters): random and none of them 0, so that nothing is left out unseen."""
    model = EncoderDecoder(config, VOCAB, "text" if has_encoder else "")
    ids = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), ids, text_source(ids) if has_encoder else None))[
        "params"
    ]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.6, x.dtype), shapes)
    params["embedding"]["embedding"] /= factor(config.embed_dim)
    return model, params


# Programs so small take longest to compile, so this is done without haste for their speed.
compiled = functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@compiled
def encode(model, params, source_bs, keys_b=None, source_ends_bk=None):
    """(memory, initial state)"""
    memory = model.apply({"params": params}, text_source(source_bs), keys_b, source_ends_bk, method="encode")
    return memory, model.apply({"params": params}, memory, method="initial_state")


@compiled
def unroll(model, params, inputs_bt, state, memory=None, reset_bt=None, keys_b=None):
    """(features, final state, logits)"""
    found, state = model.apply({"params": params}, inputs_bt, state, memory, reset_bt, keys_b, method="unroll")
    return found.values_btd, state, model.apply({"params": params}, found, memory, method="logits")


def forced(model, params, batch, keys_b=None):
    """(features, final state, logits) under teacher forcing from the initial state."""
    memory, state = None, zero_states(model.config, batch.inputs_bt.shape[0])
    if model.has_encoder:
        memory, state = encode(model, params, batch.source.values, keys_b, batch.source_ends_bk)
    return unroll(model, params, batch.inputs_bt, state, memory, batch.resets_bt, keys_b)


def batch_of(shape=(6, 7), rows=3, has_encoder=True) -> Batch:
    rng = np.random.default_rng(1)
    pairs = [(rng.integers(3, VOCAB, s), rng.integers(3, VOCAB, t)) for s, t in LENGTHS]
    batch = pad_pairs(pairs, shape, rows)
    return batch if has_encoder else batch._replace(source=None)


def pairs_of(seed):
    rng = np.random.default_rng(seed)
    ids = lambda: rng.integers(3, VOCAB, rng.integers(LONGEST))
    return [(ids(), ids()) for _ in range(PAIRS)]


def packed(rows) -> Batch:
    """Each row's pairs one after the other, and empty rows up to `ROWS`."""
    length = PAIRS * LONGEST
    joined = [
        tuple(np.concatenate([[EOS, *ids] for ids in side])[1:] for side in zip(*row, strict=True)) for row in rows
    ]
    batch = pad_pairs(joined, (length, length), len(rows))
    ends_bk = np.full((len(rows), PAIRS), length, np.int32)
    for row, pairs in enumerate(rows):
        ends_bk[row, : len(pairs)] = np.cumsum([len(source) + 1 for source, _ in pairs]) - 1
        batch.resets_bt[row, np.cumsum([0, *(len(target) + 1 for _, target in pairs[:-1])])] = True
    batch.inputs_bt[batch.resets_bt] = BOS
    return pad_rows(batch._replace(source_ends_bk=ends_bk), ROWS)
