"""From prompts to text, and from text to its log-probability: what `sample.py`, evaluation and notebooks share."""

import dataclasses
import functools
import math
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.answers import losses
from lm.answers.copying import copying_of
from lm.answers.head import token_losses
from lm.batch import BOS, EOS, PAD, UNK
from lm.data.read.examples import Example
from lm.data.text.spans import Spans
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.errors import UserError
from lm.models.decoder import zero_states
from lm.models.encoder_decoder import EncoderDecoder
from lm.models.ranker import Ranker
from lm.models.readers import IMPOSSIBLE, Classifier, Extractor, Reader
from lm.search import automata, beam, risk, sampling, step_function
from lm.search.constraints import Constraints
from lm.search.options import Options

BATCH = 64  # sequences decoded side by side
WINDOW = 512  # most tokens of a prompt or target that go through `unroll` at once


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
    model: EncoderDecoder | Reader,
    params: Any,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Options,
    labels: Sequence[str] = (),
) -> list[list[Generation]]:
    """`options.num_samples` outputs for each prompt; of the `labels`, where there are some.

    What a prompt gives depends on the prompt, the seed and, if a prompt is given several times, which time it is; not
    on the prompts beside it.
    """
    return generate_together([(model, params)], tokenizer, prompts, options, labels)


def generate_together(
    members: Sequence[tuple[EncoderDecoder | Reader, Any]],
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: Options,
    labels: Sequence[str] = (),
) -> list[list[Generation]]:
    """As `generate`, of several models that share a tokenizer: the mean of their probabilities at each token, or of their
    labels' or spans'."""
    models, params = zip(*members, strict=True)
    if labels:
        return classify(members, tokenizer, prompts, labels, options.num_samples)
    if isinstance(models[0], Extractor):
        return extract(members, tokenizer, prompts, options.num_samples)
    for model in models:
        if options.coverage_penalty and not (model.has_encoder and model.config.attention != "none"):
            raise UserError("--coverage_penalty", "the model has no attention to a source", "leave it out")
    prompt_ids = [tokenizer.encode_marked(prompt) for prompt in prompts]
    forbidden = (PAD, BOS, UNK, *tokenizer.unused)
    must = automata.build(tokenizer, options.ban, options.force, forbidden)
    constraints = Constraints(options.min_new_tokens, options.no_repeat_ngram, must)
    copies = 1 if options.beam_size else options.mbr_samples or options.num_samples
    seen: dict[str, int] = {}
    rows = []  # (prompt, its key's numbers)
    for index, prompt in enumerate(prompts):
        for _ in range(copies):
            seen[prompt] = seen.get(prompt, 0) + 1
            rows.append((index, zlib.crc32(prompt.encode(errors="surrogatepass")), seen[prompt]))
    # Prompts of like length side by side, so that little is padded.
    rows.sort(key=lambda row: len(prompt_ids[row[0]]))
    results: list[list[Generation]] = [[] for _ in prompts]
    for i in range(0, len(rows), BATCH):
        chunk = rows[i : i + BATCH]
        decoded = _decode(models, params, prompt_ids, chunk, options, constraints, forbidden)
        for (index, *_), found in zip(chunk, decoded, strict=True):
            for ids, log_probability, ended in found[: options.num_samples]:
                text = tokenizer.decode(ids)
                results[index].append(Generation(prompts[index], text, log_probability, len(ids), ended))
    if options.mbr_samples:
        for drawn in results:
            best = risk.minimum_bayes_risk([one.output for one in drawn])
            drawn[:] = [drawn[i] for i in best[: options.num_samples]]
    return results


def _decode(models, params, prompt_ids, rows, options, constraints, forbidden):
    """For each row its outputs, best first: (ids, log-probability, ended)."""
    ids = [prompt_ids[index] for index, *_ in rows]
    count = _power_of_two(len(rows), 1)
    has_encoder = models[0].has_encoder
    usual = [max(2 * len(i) + 32 if has_encoder else 256, options.min_new_tokens + 1) for i in ids]
    limits = [options.max_new_tokens] * len(ids) if options.max_new_tokens else usual
    limits_b = np.array(limits + [0] * (count - len(ids)), np.int32)  # rows that only fill up end at once
    if has_encoder:
        source_bs = _pad([[*i, EOS] for i in ids], count)
        memories, states = zip(*map(lambda m, p: _encode(m, p, source_bs), models, params), strict=True)
        last_b = np.full(count, BOS, np.int32)
    else:
        memories, states = (None,) * len(models), [zero_states(model.config, count) for model in models]
        known = [[BOS, *i] for i in ids]
        last_b = np.array([k[-1] for k in known] + [BOS] * (count - len(ids)), np.int32)
        before_bt = _pad([k[:-1] for k in known], count)
        for at in range(0, before_bt.shape[1], WINDOW):
            window_bt = before_bt[:, at : at + WINDOW]
            states = list(map(lambda m, p, s: _ingest(m, p, window_bt, s), models, params, states))  # noqa: B023
    given = (models, params, memories, tuple(states), last_b, limits_b, constraints)
    # A few tokens are generated by the program of as many as is usual; room for many would slow them down.
    length = _power_of_two(max(*limits, min(max(usual), 256)), 32)
    if options.beam_size:
        penalties = (options.length_penalty, options.diversity_penalty, options.coverage_penalty)
        covers = options.coverage_penalty > 0
        found = _beam(*given, penalties, options.beam_size, options.beam_groups, covers, length, forbidden)
    else:
        numbers = [row[1:] for row in rows] + [(0, 0)] * (count - len(rows))
        keys_b = _keys(np.uint32(options.seed), np.array(numbers, np.uint32))
        filters = (options.top_k, options.top_p, options.min_p, options.typical_p, options.repetition_penalty)
        found = _sample(*given, keys_b, sampling.Sampling(options.temperature, *filters), length, forbidden)
    ids_bkl, lengths_bk, log_prob_bk, ended_bk = jax.device_get(found)
    return [
        [
            (ids_bkl[b, k, : lengths_bk[b, k]], float(log_prob_bk[b, k]), bool(ended_bk[b, k]))
            for k in range(ids_bkl.shape[1])
            if np.isfinite(log_prob_bk[b, k])
        ]
        for b in range(len(rows))
    ]


@jax.jit
def _keys(seed, numbers_bn):
    return jax.vmap(lambda numbers: functools.reduce(jax.random.fold_in, numbers, jax.random.key(seed)))(numbers_bn)


@functools.partial(jax.jit, static_argnums=0)
def _encode(model, params, source_bs):
    memory = model.apply({"params": params}, source_bs, method="encode")
    return memory, model.apply({"params": params}, memory, method="initial_state")


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)  # the state is written where it was read
def _ingest(model, params, inputs_bt, state):
    return model.apply({"params": params}, inputs_bt, state, method="unroll")[1]


def _step(models, params, memories):
    """The step of one model, or of all of them together; its state is a tuple of theirs."""

    def of(model, params, memory):
        return lambda ids_b, state: model.apply({"params": params}, ids_b, state, memory, method="step")

    return step_function.ensemble(*map(of, models, params, memories))


@functools.partial(jax.jit, static_argnums=(0, 9, 10))
def _sample(models, params, memories, states, last_b, limits_b, constraints, keys_b, how, length, forbidden):
    found = sampling.sample(
        _step(models, params, memories),
        last_b,
        states,
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
    step, bonus = _step(models, params, tiled), None
    if covers:
        mask_bs = memories[0].mask_bs
        states = (states, jnp.zeros(mask_bs.shape, jnp.float32))

        def attention(states):
            each = [_attention(*given) for given in zip(models, params, states, tiled, strict=True)]
            return sum(each) / len(each)

        step, bonus = beam.coverage(step, attention, tiled[0].mask_bs, coverage_penalty)
    found = beam.beam_search(
        step,
        last_b,
        states,
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


def _attention(model, params, state, memory):
    """weights_ns, float32, with which a step attended, read from the state after it."""

    def weights(module):
        weights_n1s = module.decoder.attention.weights(
            state[0].output_bh[:, None], memory.keys_bsk, memory.mask_bs[:, None]
        )
        return weights_n1s[:, 0]

    return model.apply({"params": params}, method=weights)


def rank(
    members: Sequence[tuple[EncoderDecoder | Classifier, Any]],
    tokenizer: Tokenizer,
    sources: Sequence[str],
    labels: Sequence[str],
) -> np.ndarray:
    """float64 [sources, labels]: nats of each label, EOS included, given each source; of several models, of their mean."""
    each = [_label_nats(model, params, tokenizer, sources, labels) for model, params in members]
    return np.logaddexp.reduce(each, axis=0) - math.log(len(each))


def label_ids(tokenizer: Tokenizer, labels: Sequence[str]) -> list[list[int]]:
    """The ids of each label, its EOS included."""
    return [[*tokenizer.encode(label).tolist(), EOS] for label in labels]


def _label_nats(model, params, tokenizer, sources, labels):
    targets = label_ids(tokenizer, labels)
    source_ids = [[*tokenizer.encode_marked(source), EOS] for source in sources]
    pooled = isinstance(model, Classifier)
    rows = BATCH if pooled else max(1, BATCH // len(labels))
    order = sorted(range(len(sources)), key=lambda i: len(source_ids[i]))
    found = np.zeros((len(sources), len(labels)))
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        count = _power_of_two(len(chosen), 1)
        if pooled:
            nats_bl = _choices(model, params, _pad([source_ids[i] for i in chosen], count))
            found[chosen] = np.asarray(nats_bl, np.float64)[: len(chosen)]
            continue
        encoded = _encode(model, params, _pad([source_ids[i] for i in chosen], count))
        memory, state = beam.tile_beams(encoded, len(labels))
        targets_bt = np.tile(_pad(targets, len(labels)), (count, 1))
        inputs_bt = np.tile(_pad([[BOS, *target[:-1]] for target in targets], len(labels)), (count, 1))
        nats = _target_nats(model, params, memory, state, inputs_bt, targets_bt)
        found[chosen] = -nats.reshape(count, len(labels))[: len(chosen)]
    return found


def classify(
    members: Sequence[tuple[EncoderDecoder | Classifier, Any]],
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    labels: Sequence[str],
    num_samples: int = 1,
) -> list[list[Generation]]:
    """The `num_samples` likeliest labels of each prompt, in the form of `generate`."""
    if num_samples > len(labels):
        raise UserError("--num_samples", f"there are {len(labels)} labels", "lower it")
    tokens = [len(tokenizer.encode(label)) + 1 for label in labels]
    found = []
    for prompt, nats_l in zip(prompts, rank(members, tokenizer, prompts, labels), strict=True):
        best = np.argsort(-nats_l, kind="stable")[:num_samples]
        found.append([Generation(prompt, labels[i], float(nats_l[i]), tokens[i], True) for i in best])
    return found


def extract(
    members: Sequence[tuple[Extractor, Any]], tokenizer: Tokenizer, prompts: Sequence[str], num_samples: int = 1
) -> list[list[Generation]]:
    """The `num_samples` likeliest answers to each prompt, in the form of `generate`, or as many as there are.

    An answer is the text of a span and has the probability of all spans of the same ids. Answers are looked for among the
    `BEST_SPANS` likeliest spans.
    """
    models, params = zip(*members, strict=True)
    spans, ids = Spans(tokenizer), [tokenizer.encode(prompt) for prompt in prompts]
    parts = list(map(spans.surfaces_of, prompts, ids))
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    found: list[list[Generation]] = [[] for _ in prompts]
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        source_bs = _pad([[*ids[i], EOS] for i in chosen], _power_of_two(len(chosen), 1))
        best_kb, nats_kb = jax.device_get(_best_spans(models, params, source_bs))
        for row, i in enumerate(chosen):
            answers: dict[str, Generation] = {}
            for k in np.argsort(-nats_kb[:, row], kind="stable"):
                first, more = divmod(int(best_kb[k, row]), models[0].span)
                span, nats = parts[i][first : first + more + 1], float(nats_kb[k, row])
                text = spans.text(span)
                if nats > IMPOSSIBLE / 2 and text not in answers:
                    answers[text] = Generation(prompts[i], text, nats, len(span) + 1, True)
            found[i] = list(answers.values())[:num_samples]
    return found


BEST_SPANS = 16


@functools.partial(jax.jit, static_argnums=0)
def _best_spans(models, params, source_bs):
    """(choices_kb, nats_kb): the k likeliest spans, and the log-probability of the text of each."""
    each = [_choices(model, own, source_bs) for model, own in zip(models, params, strict=True)]
    nats_bc = jax.nn.logsumexp(jnp.stack(each), axis=0) - math.log(len(each))
    _, best_bk = jax.lax.top_k(nats_bc, min(BEST_SPANS, nats_bc.shape[1]))

    def text(best_b):
        same_bc = models[0].apply({"params": params[0]}, source_bs, best_b, method="same")
        return jax.nn.logsumexp(jnp.where(same_bc, nats_bc, IMPOSSIBLE), axis=-1)

    return best_bk.T, jax.lax.map(text, best_bk.T)


@functools.partial(jax.jit, static_argnums=0)
def _choices(model, params, source_bs):
    """nats_bc of each choice of a `Reader`."""
    return jax.nn.log_softmax(model.apply({"params": params}, source_bs, method="logits"))


# ---- scoring ----------------------------------------------------------------------------------------------------


def score(
    model: EncoderDecoder | Reader, params: Any, tokenizer: Tokenizer, examples: Sequence[Example]
) -> list[Score]:
    """The log-probability of each example's target (given its source), from a fresh state; -inf of what is no choice."""
    targets = label_ids(tokenizer, [example.target for example in examples])
    if isinstance(model, Extractor):
        spans = Spans(tokenizer)
        for i, example in enumerate(examples):
            found = spans.find(example.source, tokenizer.encode(example.source), example.target)
            targets[i] = [*found.tolist(), EOS] if len(found) else targets[i]
    order = sorted(range(len(examples)), key=lambda i: len(targets[i]))
    results: list[Any] = [None] * len(examples)
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        count = _power_of_two(len(chosen), 1)
        targets_bt = _pad([targets[i] for i in chosen], count)
        inputs_bt = _pad([[BOS, *targets[i][:-1]] for i in chosen], count)
        if model.has_encoder:
            source_bs = _pad([[*tokenizer.encode(examples[i].source), EOS] for i in chosen], count)
        if isinstance(model, Reader):
            nats = np.asarray(_choice_nats(model, params, source_bs, targets_bt), np.float64)
        else:
            start = (None, zero_states(model.config, count))
            memory, state = _encode(model, params, source_bs) if model.has_encoder else start
            nats = _target_nats(model, params, memory, state, inputs_bt, targets_bt)
        for row, i in enumerate(chosen):
            results[i] = Score(-float(nats[row]), len(targets[i]), len(examples[i].target.encode()))
    return results


@functools.partial(jax.jit, static_argnums=0)
def _choice_nats(model, params, source_bs, targets_bt):
    return losses.choice_losses(model, params, source_bs, targets_bt)


def _target_nats(model, params, memory, state, inputs_bt, targets_bt):
    """float64 [b]: nats of each row's target, window by window; a label is one window."""
    nats, size = np.zeros(len(targets_bt)), targets_bt.shape[1] if isinstance(model, Ranker) else WINDOW
    for begin in range(0, targets_bt.shape[1], size):
        window = slice(begin, begin + size)
        nats_b, state = _score_window(model, params, memory, state, inputs_bt[:, window], targets_bt[:, window])
        nats += np.asarray(nats_b, np.float64)
    return nats


@functools.partial(jax.jit, static_argnums=0)
def _score_window(model, params, memory, state, inputs_bt, targets_bt):
    variables = {"params": params}
    features, state = model.apply(variables, inputs_bt, state, memory, method="unroll")
    if isinstance(model, Ranker):
        nats_bt = losses.label_losses(model, params, features, memory, targets_bt, jnp.zeros_like(targets_bt, bool))
    else:
        head, copying = model.apply(variables, method="head"), copying_of(features, memory, targets_bt)
        nats_bt = token_losses(features.values_btd, head, targets_bt, model.config.dtype, copying)
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
