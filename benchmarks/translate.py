"""python -m benchmarks.translate [--peers=PYTHON] [--rounds=11] [--json=FILE]

Beam search with beam 5 in an encoder-decoder of the shape of `configs/translate.py` (LSTM, 256 units, attention, 5,000
pieces, one matrix for both embeddings and the head), with random parameters: batches of 64 sources of 16 tokens, and 16
tokens written for each, without an end. It compares ours with Joey NMT's (`pip install joeynmt importlib_metadata` in
an environment with lm, given by `--peers`), without input feeding, which ours lacks. Prints milliseconds per batch.
"""

import json

from absl import flags

from benchmarks import contest

CASES = {"64 sources, beam 5": {"width": 256, "batch": 64, "vocab": 5000}}
BEAM, TOKENS = 5, 16


def lm(case: dict):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from lm.batch import BOS, EOS, Source
    from lm.config import ModelConfig
    from lm.models import parameters
    from lm.models.encoder_decoder import EncoderDecoder
    from lm.search import beam

    width, batch = case["width"], case["batch"]
    config = ModelConfig(embed_dim=width, hidden_dim=width, layers=1, attention="dot", tied=True)
    model = EncoderDecoder(config, case["vocab"], "text")
    variables = {"params": parameters.initial_params(model, 0)}
    ids = np.random.default_rng(0).integers(4, case["vocab"], (batch, TOKENS)).astype(np.int32)

    @jax.jit
    def translate(variables, source_bs):
        memory = model.apply(variables, Source(source_bs, source_bs > 0), method="encode")
        state = model.apply(variables, memory, method="initial_state")
        tiled = beam.tile_beams(memory, BEAM)

        def step(ids_n, state):
            features, state = model.apply(variables, ids_n, state, tiled, method="step")
            return model.apply(variables, features, tiled, method="logits"), state

        how = {"beam_size": BEAM, "length_penalty": 1.0, "length": TOKENS, "eos_id": EOS, "forbidden": (EOS,)}
        return beam.beam_search(step, jnp.full(batch, BOS), state, limits_b=jnp.full(batch, TOKENS), **how)

    return lambda: jax.block_until_ready(translate(variables, ids))


def joey(case: dict):
    from types import SimpleNamespace

    import torch
    from joeynmt.model import build_model
    from joeynmt.search import beam_search
    from joeynmt.vocabulary import Vocabulary

    torch.manual_seed(0)
    width, batch = case["width"], case["batch"]
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "sep_token": None}
    special |= {"unk_id": 0, "pad_id": 1, "bos_id": 2, "eos_id": 3, "lang_tags": []}
    vocab = Vocabulary([f"w{i}" for i in range(case["vocab"] - 4)], SimpleNamespace(**special))
    part = {"type": "recurrent", "rnn_type": "lstm", "num_layers": 1, "hidden_size": width}
    part |= {"embeddings": {"embedding_dim": width}}
    encoder, decoder = part | {"bidirectional": True}, part | {"attention": "luong", "input_feeding": False}
    shared = {"tied_embeddings": True, "tied_softmax": True}
    model = build_model({"encoder": encoder, "decoder": decoder, **shared}, vocab, vocab).eval()
    source, lengths = torch.randint(4, case["vocab"], (batch, TOKENS)), torch.full((batch,), TOKENS)
    mask = torch.ones(batch, 1, TOKENS, dtype=torch.bool)
    # Longer than the most: no hypothesis ends.
    how = {"max_output_length": TOKENS, "min_output_length": TOKENS + 1, "alpha": 1.0}

    @torch.no_grad()
    def call():
        given = {"src": source, "src_length": lengths, "src_mask": mask}
        outputs, hidden, _, _ = model(return_type="encode", **given)
        return beam_search(model, BEAM, outputs, hidden, mask, **how)

    return call


CONTESTANTS = {"lm": lm, "joey": joey}


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        contest.serve(CONTESTANTS[values.as_contestant](json.loads(values.case)))
        return
    results = {name: contest.race("benchmarks.translate", list(CONTESTANTS), case) for name, case in CASES.items()}
    contest.write({"beam search": contest.report(f"Beam search, {TOKENS} tokens", results)})


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
