"""From prompts to text, and from text to its log-probability: what `sample.py`, evaluation and notebooks share."""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm import decoding, losses
from lm.data.examples import Example
from lm.data.tokenizers import BOS, EOS, PAD, UNK, Tokenizer
from lm.errors import UserError
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder

ROWS = 64  # sequences decoded side by side
WINDOW = 512  # most tokens of a prompt or target that go through `unroll` at once


@dataclasses.dataclass(frozen=True)
class Options:
    """How to generate; never bound to training."""

    num_samples: int = 1  # outputs for each prompt; with a beam, its n best
    max_new_tokens: int = 0  # 0: 256 for a language model, twice the source and 32 more for an encoder-decoder
    temperature: float = 1.0  # 0 is greedy
    top_k: int = 0  # 0 is off
    top_p: float = 1.0  # 1 is off
    min_p: float = 0.0  # 0 is off
    beam_size: int = 0  # 0: sample (or greedy); k: the k most probable by beam search
    length_penalty: float = 0.0  # of the beam's scores (Wu et al., 2016); 0 ranks by log-probability
    seed: int = 0

    def __post_init__(self):
        def check(ok: bool, name: str, mend: str) -> None:
            if not ok:
                raise UserError(f"--{name}", f"{getattr(self, name)!r} is out of range", mend)

        check(self.num_samples >= 1, "num_samples", "give at least 1")
        check(0 <= self.max_new_tokens <= 10**6, "max_new_tokens", "give 1 to 1000000, or 0 for the default")
        check(0 <= self.temperature < float("inf"), "temperature", "give at least 0, which is greedy")
        check(0 <= self.top_k < 2**31, "top_k", "give at least 1, or 0 for no limit")
        check(0 < self.top_p <= 1, "top_p", "give more than 0 and at most 1, which is no limit")
        check(0 <= self.min_p <= 1, "min_p", "give 0, which is no limit, to 1")
        check(self.beam_size >= 0, "beam_size", "give at least 1, or 0 for none")
        check(self.length_penalty >= 0, "length_penalty", "give at least 0")
        check(0 <= self.seed < 2**32, "seed", "give 0 to 4294967295")
        if self.length_penalty and not self.beam_size:
            raise UserError("--length_penalty", "is of a beam's scores", "give --beam_size")
        if self.num_samples > 1 and not self.beam_size and self.temperature == 0:
            raise UserError("--num_samples", "greedy decoding has one output", "give --temperature or --beam_size")
        if self.beam_size and self.num_samples > self.beam_size:
            what = f"a beam of {self.beam_size} has no {self.num_samples} best"
            raise UserError("--num_samples", what, "raise --beam_size")


@dataclasses.dataclass(frozen=True)
class Generation:
    prompt: str
    output: str
    log_probability: float  # nats, of the generated tokens under the model as it is, EOS included where reached
    tokens: int  # generated, EOS counted
    ended: bool  # whether the model ended the text; else `max_new_tokens` did


class Score(NamedTuple):
    """Of one text under the model, from its beginning to its end (EOS included)."""

    log_probability: float  # nats
    tokens: int
    bytes: int


# ---- generation -------------------------------------------------------------------------------------------------


def generate(
    model: EncoderDecoder, params: Any, tokenizer: Tokenizer, prompts: Sequence[str], options: Options
) -> list[list[Generation]]:
    """`options.num_samples` outputs for each prompt.

    What a prompt gives depends on the prompt, the seed and, if a prompt is given several times, which time it is; not
    on the prompts beside it.
    """
    prompt_ids = [tokenizer.encode_marked(prompt) for prompt in prompts]
    forbidden = (PAD, BOS, UNK, *tokenizer.unused)
    copies = 1 if options.beam_size else options.num_samples
    seen: dict[str, int] = {}
    rows = []  # (prompt, its key's numbers)
    for index, prompt in enumerate(prompts):
        for _ in range(copies):
            seen[prompt] = seen.get(prompt, 0) + 1
            rows.append((index, zlib.crc32(prompt.encode(errors="surrogatepass")), seen[prompt]))
    # Prompts of like length side by side, so that little is padded.
    rows.sort(key=lambda row: len(prompt_ids[row[0]]))
    results: list[list[Generation]] = [[] for _ in prompts]
    for i in range(0, len(rows), ROWS):
        chunk = rows[i : i + ROWS]
        for (index, *_), found in zip(
            chunk, _decode(model, params, prompt_ids, chunk, options, forbidden), strict=True
        ):
            for ids, log_probability, ended in found[: options.num_samples]:
                text = tokenizer.decode(ids)
                results[index].append(Generation(prompts[index], text, log_probability, len(ids), ended))
    return results


def _decode(model, params, prompt_ids, rows, options, forbidden) -> list[list[tuple[np.ndarray, float, bool]]]:
    """For each row its outputs, best first: (ids, log-probability, ended)."""
    ids = [prompt_ids[index] for index, *_ in rows]
    count = _power_of_two(len(rows), 1)
    if options.max_new_tokens:
        limits = [options.max_new_tokens] * len(ids)
    else:
        limits = [2 * len(i) + 32 if model.has_encoder else 256 for i in ids]
    limits_b = np.array(limits + [0] * (count - len(ids)), np.int32)  # rows that only fill up end at once
    if model.has_encoder:
        source_bs = _pad([[*i, EOS] for i in ids], count)
        memory, state = _encode(model, params, source_bs)
        last_b = np.full(count, BOS, np.int32)
    else:
        memory, state = None, zero_states(model.config, count)
        known = [[BOS, *i] for i in ids]
        last_b = np.array([k[-1] for k in known] + [BOS] * (count - len(ids)), np.int32)
        before_bt = _pad([k[:-1] for k in known], count)
        for at in range(0, before_bt.shape[1], WINDOW):
            state = _ingest(model, params, before_bt[:, at : at + WINDOW], state)
    length = _power_of_two(max(limits), 32)
    if options.beam_size:
        how = (options.beam_size, length, forbidden)
        found = _beam(model, params, memory, state, last_b, limits_b, options.length_penalty, *how)
    else:
        keys_b = _keys(options.seed, np.array([row[1:] for row in rows], np.uint32), count)
        how = decoding.Sampling(options.temperature, options.top_k, options.top_p, options.min_p)
        found = _sample(model, params, memory, state, last_b, limits_b, keys_b, how, length, forbidden)
    ids_bkl, lengths_bk, log_prob_bk, ended_bk = jax.device_get(found)
    return [
        [
            (ids_bkl[b, k, : lengths_bk[b, k]], float(log_prob_bk[b, k]), bool(ended_bk[b, k]))
            for k in range(ids_bkl.shape[1])
            if np.isfinite(log_prob_bk[b, k])
        ]
        for b in range(len(rows))
    ]


def _keys(seed: int, numbers_bn: np.ndarray, count: int) -> jax.Array:
    filled = np.pad(numbers_bn, [(0, count - len(numbers_bn)), (0, 0)])
    fold = lambda numbers: functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed))
    return jax.vmap(fold)(jnp.asarray(filled))


@functools.partial(jax.jit, static_argnums=0)
def _encode(model, params, source_bs):
    memory = model.apply({"params": params}, source_bs, method="encode")
    return memory, model.apply({"params": params}, memory, method="initial_state")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)  # the state is written where it was read
def _ingest(model, params, inputs_bt, state):
    return model.apply({"params": params}, inputs_bt, state, method="unroll")[1]


@functools.partial(jax.jit, static_argnums=(0, 8, 9))
def _sample(model, params, memory, state, last_b, limits_b, keys_b, how, length, forbidden):
    step = lambda ids_b, state: model.apply({"params": params}, ids_b, state, memory, method="step")
    found = decoding.sample(
        step,
        last_b,
        state,
        keys_b,
        options=how,
        length=length,
        limits_b=limits_b,
        eos_id=EOS,
        forbidden=forbidden,
    )
    return jax.tree.map(lambda x: x[:, None], tuple(found))


@functools.partial(jax.jit, static_argnums=(0, 7, 8, 9))
def _beam(model, params, memory, state, last_b, limits_b, length_penalty, beam_size, length, forbidden):
    tiled = decoding.tile_beams(memory, beam_size)
    step = lambda ids_b, state: model.apply({"params": params}, ids_b, state, tiled, method="step")
    found = decoding.beam_search(
        step,
        last_b,
        state,
        beam_size=beam_size,
        length_penalty=length_penalty,
        length=length,
        limits_b=limits_b,
        eos_id=EOS,
        forbidden=forbidden,
    )
    return found.ids_bkl, found.lengths_bk, found.log_prob_bk, found.ended_bk


# ---- scoring ----------------------------------------------------------------------------------------------------


def score(model: EncoderDecoder, params: Any, tokenizer: Tokenizer, examples: Sequence[Example]) -> list[Score]:
    """The log-probability of each example's target (given its source), from a fresh state."""
    targets = [[*tokenizer.encode(example.target), EOS] for example in examples]
    order = sorted(range(len(examples)), key=lambda i: len(targets[i]))
    results: list[Any] = [None] * len(examples)
    for at in range(0, len(order), ROWS):
        chosen = order[at : at + ROWS]
        count = _power_of_two(len(chosen), 1)
        targets_bt = _pad([targets[i] for i in chosen], count)
        inputs_bt = _pad([[BOS, *targets[i][:-1]] for i in chosen], count)
        if model.has_encoder:
            source_bs = _pad([[*tokenizer.encode(examples[i].source), EOS] for i in chosen], count)
            memory, state = _encode(model, params, source_bs)
        else:
            memory, state = None, zero_states(model.config, count)
        nats = np.zeros(count)
        for begin in range(0, targets_bt.shape[1], WINDOW):
            window = slice(begin, begin + WINDOW)
            nats_b, state = _score_window(model, params, memory, state, inputs_bt[:, window], targets_bt[:, window])
            nats += np.asarray(nats_b, np.float64)
        for row, i in enumerate(chosen):
            results[i] = Score(-float(nats[row]), len(targets[i]), len(examples[i].target.encode()))
    return results


@functools.partial(jax.jit, static_argnums=0)
def _score_window(model, params, memory, state, inputs_bt, targets_bt):
    variables = {"params": params}
    features_btd, state = model.apply(variables, inputs_bt, state, memory, method="unroll")
    head = model.apply(variables, method="head")
    nats_bt = losses.token_losses(features_btd, head, targets_bt, model.config.dtype)
    return jnp.sum(jnp.where(targets_bt != PAD, nats_bt, 0), axis=1), state


def _power_of_two(count: int, least: int) -> int:
    """Few different shapes, so that few programs are compiled."""
    return max(least, 1 << (count - 1).bit_length())


def _pad(rows: Sequence[Sequence[int]], count: int) -> np.ndarray:
    """int32 [count, length], PAD where there is nothing; the length is a power of two or whole windows."""
    longest = max(1, max(map(len, rows)))
    length = _power_of_two(longest, 16) if longest <= WINDOW else -(-longest // WINDOW) * WINDOW
    padded = np.full((count, length), PAD, np.int32)
    for row, ids in zip(padded, rows, strict=False):
        row[: len(ids)] = ids
    return padded
