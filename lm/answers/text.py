"""Answers that are text: the fused cross-entropy in training, sampling or beam search afterwards."""

import functools
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.answers import shapes
from lm.answers.contract import Generation
from lm.answers.copying import copying_of
from lm.answers.cross_entropy import cross_entropy, position_nats
from lm.answers.sampled_softmax import sampled_cross_entropy
from lm.answers.written import Written, encode
from lm.batch import BOS, EOS, PAD, UNK
from lm.config.tasks import TASKS
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.search import automata, beam, risk, sampling
from lm.search.constraints import Constraints
from lm.search.options import Options
from lm.search.step_function import StepFn, ensemble

MOST_ROWS = 2**14  # hypotheses that are searched side by side


class Text(Written):
    """Any text: each token is one of the vocabulary."""

    kind = "text"

    @classmethod
    def model_of(cls, config, tokenizer, labels):
        return EncoderDecoder(config.model, tokenizer.vocab_size, TASKS[config.data.task].source)

    def cost(self, params, features, memory, batch, noise):
        head, dtype = self._head(params), self.model.config.dtype
        given = (features.values_btd, head, batch.targets_bt, batch.weights_bt)
        if noise.candidates is not None:
            return sampled_cross_entropy(*given, noise.candidates, dtype)
        copying = copying_of(features, memory, batch.targets_bt)
        return cross_entropy(*given, self.objective.label_smoothing, self.objective.z_loss, dtype, copying)

    def position_nats(self, params, features, memory, batch):
        copying = copying_of(features, memory, batch.targets_bt)
        head, dtype = self._head(params), self.model.config.dtype
        return position_nats(features.values_btd, head, batch.targets_bt, dtype, copying)

    def _head(self, params):
        return self.model.apply({"params": params}, method="head")

    def answer(self, params, prompts, options, beside=(), before=MappingProxyType({})):
        members = [(self, params), *beside]
        for member, _ in members:
            attends = member.model.has_encoder and member.model.config.attention != "none"
            if options.coverage_penalty and not attends:
                raise UserError("--coverage_penalty", "the model has no attention to a source", "leave it out")
        models, params = (tuple(each) for each in zip(*((one.model, own) for one, own in members), strict=True))
        search = _search_for(self.tokenizer, options)
        values = [self._read(prompt) for prompt in prompts]
        copies = 1 if options.beam_size else options.mbr_samples or options.num_samples
        results: list[list[Generation]] = [[] for _ in prompts]
        for chosen in _in_batches(_asked(prompts, copies, before), values, search.rows(options)):
            given = [values[one.number] for one in chosen]
            found = _decode(models, params, given, chosen, options, search, self.front_end)
            for one, outputs in zip(chosen, found, strict=True):
                for output in outputs[: options.num_samples]:
                    results[one.number].append(self._generation(prompts[one.number], options, *output))
        if options.mbr_samples:
            for drawn in results:
                best = risk.minimum_bayes_risk([one.output for one in drawn])
                drawn[:] = [drawn[i] for i in best[: options.num_samples]]
        return results

    def _generation(self, prompt: str, options: Options, ids, log_probability: float, ended: bool) -> Generation:
        text, stop = automata.before_stop(self.tokenizer, ids, options.stop)
        kept = len(ids) - int(EOS in ids[-1:])
        fits = kept >= options.min_new_tokens and not any(each in text for each in options.ban)
        fits &= all(each in text for each in options.force)
        return Generation(prompt, text, log_probability, len(ids), ended, stop, bool(fits))

    def _read(self, prompt: str) -> np.ndarray:
        """Returns the values of a source, or the ids of the beginning of a text."""
        if self.front_end is None:
            return self.tokenizer.encode_marked(prompt)
        return self.front_end.prompt(prompt, self.tokenizer)


class _Search(NamedTuple):
    """The constraints on an output, and the fewest tokens that they need."""

    forbidden: tuple[int, ...]
    constraints: Constraints
    fewest: int

    def rows(self, options: Options) -> int:
        """Returns the number of prompts that are searched for in one batch."""
        steps = beam.beams(options.beam_size, self.constraints) if options.beam_size else 1
        return max(1, min(shapes.BATCH, MOST_ROWS // steps))


@functools.lru_cache(4)  # many prompts come in chunks
def _search_for(tokenizer: Tokenizer, options: Options) -> _Search:
    """Returns the constraints that the options ask for; raises `UserError` if no text can meet them."""
    forbidden = (PAD, BOS, UNK, *tokenizer.unused)
    must = automata.build(tokenizer, options.ban, options.force, options.stop, forbidden)
    fewest = automata.fewest_tokens(must, forbidden) if must else 0
    if fewest is None:
        raise UserError("--force", "no text holds all of it and nothing of --ban", "leave a string out")
    if options.max_new_tokens and fewest > options.max_new_tokens:
        reason = f"takes at least {fewest} tokens, and --max_new_tokens is {options.max_new_tokens}"
        raise UserError("--force", reason, "raise it, or force less")
    least, size = options.min_new_tokens, options.no_repeat_ngram
    if least and must and not automata.may_begin(must, forbidden):
        raise UserError("--min_new_tokens", "--ban leaves no token to write", "ban less")
    known = tokenizer.vocab_size - len(forbidden) - 1  # nor EOS
    if size and least > known ** min(size, 20) + size - 1:
        reason = f"no {least} tokens are without a repeated {size}-gram of {known} different ones"
        raise UserError("--min_new_tokens", reason, "lower it, or raise --no_repeat_ngram")
    return _Search(forbidden, Constraints(least, size, must), max(least, fewest))


class _Asked(NamedTuple):
    """One output to generate: its prompt, and the numbers that its random key is derived from."""

    number: int
    checksum: int
    time: int  # which time the same prompt is given, from 1


def _asked(prompts: Sequence[str], copies: int, before: Mapping[str, int]) -> list[_Asked]:
    seen = {prompt: before.get(prompt, 0) * copies for prompt in prompts}
    asked = []
    for number, prompt in enumerate(prompts):
        for _ in range(copies):
            seen[prompt] += 1
            asked.append(_Asked(number, zlib.crc32(prompt.encode(errors="surrogatepass")), seen[prompt]))
    return asked


def _in_batches(asked: list[_Asked], values: Sequence[np.ndarray], rows: int) -> list[list[_Asked]]:
    """Returns batches of prompts of similar length, so that there is little padding."""
    asked = sorted(asked, key=lambda one: len(values[one.number]))
    return [asked[i : i + rows] for i in range(0, len(asked), rows)]


def _decode(models, params, values, asked, options, search, front_end):
    """Returns the outputs of each prompt, best first: (ids, log-probability, ended)."""
    count = shapes.power_of_two(len(values), 1)
    usual = [max(256 if front_end is None else 2 * len(v) + 32, search.fewest + 1) for v in values]
    limits = [options.max_new_tokens] * len(values) if options.max_new_tokens else usual
    limits_b = np.array(
        limits + [0] * (count - len(values)), np.int32
    )  # sequences that only fill the batch end at once
    if front_end is None:
        memories, (states, last_b) = (None,) * len(models), _ingested(models, params, values, count)
    else:
        source = shapes.padded_source(values, count, front_end)
        memories, states = zip(*(encode(*each, source) for each in zip(models, params, strict=True)), strict=True)
        last_b = np.full(count, BOS, np.int32)
    given = (models, params, memories, tuple(states), last_b, limits_b, search.constraints)
    # A few tokens are generated by the program of as many as is usual; room for many would slow them down.
    length = shapes.power_of_two(max(*limits, min(max(usual), 256)), 32)
    if options.beam_size:
        penalties = (options.length_penalty, options.diversity_penalty, options.coverage_penalty)
        how = (options.beam_size, options.beam_groups, options.coverage_penalty > 0)
        found = _beam(*given, penalties, *how, length, search.forbidden)
    else:
        numbers = [one[1:] for one in asked] + [(0, 0)] * (count - len(asked))
        keys_b = _keys(np.uint32(options.seed), np.array(numbers, np.uint32))
        filters = (options.top_k, options.top_p, options.min_p, options.typical_p, options.repetition_penalty)
        found = _sample(*given, keys_b, sampling.Sampling(options.temperature, *filters), length, search.forbidden)
    ids_bkl, lengths_bk, log_prob_bk, ended_bk = jax.device_get(found)
    return [
        [
            (ids_bkl[b, k, : lengths_bk[b, k]], float(log_prob_bk[b, k]), bool(ended_bk[b, k]))
            for k in range(ids_bkl.shape[1])
            if np.isfinite(log_prob_bk[b, k])
        ]
        for b in range(len(values))
    ]


def _ingested(models, params, values, count):
    """Returns the states after all ids of the prompts but the last, and the last ids: the start of a language model's
    output.
    """
    known = [[BOS, *ids] for ids in values]
    last_b = np.array([ids[-1] for ids in known] + [BOS] * (count - len(known)), np.int32)
    before_bt = shapes.padded_ids([ids[:-1] for ids in known], count)
    states = [zero_states(model.config, count) for model in models]
    for at in range(0, before_bt.shape[1], shapes.WINDOW):
        window_bt = before_bt[:, at : at + shapes.WINDOW]
        states = [_ingest(m, p, window_bt, s) for m, p, s in zip(models, params, states, strict=True)]
    return states, last_b


@jax.jit
def _keys(seed, numbers_bn):
    return jax.vmap(lambda numbers: functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed)))(numbers_bn)


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)  # the new state overwrites the old one
def _ingest(model, params, inputs_bt, state):
    return model.apply({"params": params}, inputs_bt, state, method="unroll")[1]


def _step(models, params, memories, covers=False) -> StepFn:
    """Returns the step of all models together. Its state is, for each, (the decoder's state, the attention so far)."""

    def of(model, params, memory):
        def step(ids_b, state):
            inner, paid_bs = state
            variables = {"params": params}
            features, inner = model.apply(variables, ids_b, inner, memory, method="step")
            if covers:
                paid_bs = paid_bs + features.attention_bts
            return model.apply(variables, features, memory, method="logits"), (inner, paid_bs)

        return step

    return ensemble(*map(of, models, params, memories))


@functools.partial(jax.jit, static_argnums=(0, 9, 10))
def _sample(models, params, memories, states, last_b, limits_b, constraints, keys_b, how, length, forbidden):
    found = sampling.sample(
        _step(models, params, memories),
        last_b,
        tuple((state, ()) for state in states),
        keys_b,
        options=how,
        length=length,
        limits_b=limits_b,
        eos_id=EOS,
        forbidden=forbidden,
        constraints=constraints,
    )
    return jax.tree.map(lambda x: x[:, None], tuple(found))


@functools.partial(jax.jit, static_argnums=(0, 8, 9, 10, 11, 12))
def _beam(
    models,
    params,
    memories,
    states,
    last_b,
    limits_b,
    constraints,
    penalties,
    beam_size,
    groups,
    covers,
    length,
    forbidden,
):
    length_penalty, diversity_penalty, coverage_penalty = penalties
    tiled = beam.tile_beams(memories, beam.beams(beam_size, constraints))
    none_paid, bonus = (), None
    if covers:
        none_paid = jnp.zeros(memories[0].mask_bs.shape, jnp.float32)
        mean_paid = lambda states: sum(paid_bs for _, paid_bs in states) / len(states)
        bonus = beam.coverage(mean_paid, tiled[0].mask_bs, coverage_penalty)
    found = beam.beam_search(
        _step(models, params, tiled, covers),
        last_b,
        tuple((state, none_paid) for state in states),
        beam_size=beam_size,
        length_penalty=length_penalty,
        length=length,
        limits_b=limits_b,
        eos_id=EOS,
        forbidden=forbidden,
        constraints=constraints,
        groups=groups,
        diversity_penalty=diversity_penalty,
        bonus_fn=bonus,
    )
    return found.ids_bkl, found.lengths_bk, found.log_prob_bk, found.ended_bk
