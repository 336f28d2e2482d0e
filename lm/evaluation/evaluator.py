"""Evaluation of a model on a split: likelihoods through `unroll`, and text through the loop that samples."""

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from lm.answers.contract import Answer, Generation
from lm.answers.shapes import BATCH
from lm.batch import UNK, Batch
from lm.config import Config
from lm.config.tasks import TASKS
from lm.data import feed
from lm.data.batches import layout
from lm.data.encoding import Encoded
from lm.data.read.examples import Example
from lm.data.text.tokenizers.surfaces import surfaces
from lm.data.text.tokenizers.unknown import SYMBOL, Unknown
from lm.devices.mesh import AXIS, Devices
from lm.evaluation import metrics, statistics
from lm.evaluation.statistics import Metric
from lm.search.options import Options


@functools.cache  # the same answer has the same program
def make_eval_step(answer: Answer) -> Callable[[Any, Any, Batch], tuple[jax.Array, jax.Array, Any]]:
    """Returns a function (params, carry, batch) -> (sum of nats, number of targets, carry), summed over all devices."""

    def eval_step(params, carry, batch):
        nats_bt, carry = answer.nats(params, carry, batch)
        return *lax.psum((nats_bt.sum(), batch.weights_bt.sum()), AXIS), carry

    return eval_step


@functools.cache
def make_row_step(answer: Answer) -> Callable[[Any, Any, Batch], tuple[jax.Array, Any]]:
    """Returns a function (params, carry, batch) -> (nats_b, carry), like `make_eval_step`, but per sequence."""

    def row_step(params, carry, batch):
        nats_bt, carry = answer.nats(params, carry, batch)
        return nats_bt.sum(axis=1), carry

    return row_step


class Part(NamedTuple):
    """A set of examples with its own metrics: a whole split, or one source of a mixture."""

    numbers: range
    target_bytes: int
    lost: Unknown  # of the targets
    floor: float | None  # nats per example; None if the data does not know it


class Evaluator:
    """Scores one split, again and again, with the programs compiled once."""

    def __init__(self, answer: Answer, config: Config, devices: Devices, encoded: Encoded):
        self.answer, self.config, self.devices, self.encoded = answer, config, devices, encoded
        self._step = devices.map(make_eval_step(answer), (None, 0, 0), (None, None, 0))
        self._generated: dict[int, Generation] = {}  # by the last evaluation, by the number of the example

    @functools.cached_property
    def parts(self) -> dict[str, Part]:
        """The sources of a mixture of pairs, by the text that names them."""
        found: dict[str, Part] = {}
        for name, numbers in (self.encoded.split.ranges if TASKS[self.config.data.task].pairs else {}).items():
            examples = self.encoded.split.examples.read(numbers)
            known = [example.log_prob for example in examples if example.log_prob is not None]
            floor = 0.0 - math.fsum(known) / len(known) if len(known) == len(examples) else None
            lost = Unknown.total(self._lost_n3[self.rows_of(numbers)])
            found[name] = Part(numbers, self._target_bytes(numbers, examples), lost, floor)
        return found

    def _target_bytes(self, numbers: range, examples: list[Example]) -> int:
        """Returns the bytes of the targets that have a likelihood. For spans, these are not all targets, nor always the
        first.
        """
        if self.encoded.pointed is None:
            return sum(len(example.target.encode()) for example in examples)
        targets = (
            target
            for _, target in self.encoded.corpus.take(np.arange(len(self.encoded.pointed))[self.rows_of(numbers)], 0)
        )
        return sum(len(self.answer.tokenizer.decode(ids).encode()) for ids in targets)

    @functools.cached_property
    def whole(self) -> Part:
        """The whole split."""
        encoded = self.encoded
        return Part(range(len(encoded.corpus)), encoded.target_bytes, Unknown.total(self._lost_n3), encoded.floor)

    @property
    def _lost_n3(self) -> np.ndarray:
        lost_n3 = self.encoded.lost_n3
        return np.zeros_like(lost_n3) if self.answer.tells_apart else lost_n3

    @functools.cached_property
    def _rows_of(self) -> Callable:
        return self.devices.map(make_row_step(self.answer), (None, 0, 0), 0)

    def rows_of(self, numbers: range) -> slice:
        """Returns the likelihoods that belong to the examples of these numbers, as a slice over the examples in the
        corpus.
        """
        ends = [numbers.start, numbers.stop]
        return slice(*(ends if self.encoded.pointed is None else np.searchsorted(self.encoded.pointed, ends)))

    def chosen(self, limit: int | None) -> list[int]:
        """The numbers of `limit` examples, the first ones; of a mixture as many of each source."""
        ranges = [part.numbers for part in self.parts.values()] or [range(len(self.encoded.split.examples))]
        return [number for numbers in ranges for number in numbers[: limit and -(-limit // len(ranges))]]

    def losses(self, params: Any, most_batches: int | None = None) -> tuple[float, float]:
        """Returns (sum of nats, number of target tokens) of the split in one pass; `params` are replicated on the
        devices.
        """
        passed = itertools.islice(feed.evaluation_batches(self.encoded, self.config.data), most_batches)
        found = [pair for _, pair in self._stepped(self._step, params, passed)]
        sums = np.array([Devices.first(pair) for pair in found], np.float64)
        return tuple(sums.sum(axis=0))

    def _stepped(self, step: Callable, params: Any, passed: Iterable[Batch]) -> Iterator[tuple[Batch, list[jax.Array]]]:
        """Yields each batch, padded for the devices, and the result of `step`, which passes the carried state on."""
        carry: Any = ()
        for number, batch in enumerate(passed):
            rows = self.devices.padded(batch.inputs_bt.shape[0])
            if not number:
                carry = self.devices.shard(self.answer.first_carry(rows))
            padded = layout.pad_rows(batch, rows)
            *found, carry = step(params, carry, self.devices.shard(padded))
            yield padded, found

    def generate(self, params: Any, limit: int | None, options: Options) -> list[Generation]:
        """Returns one output for each of the sources `chosen(limit)`; `params` are on the host or on one device."""
        prompts = [example.source for example in self.encoded.split.examples.read(self.chosen(limit))]
        return [one for (one,) in self.answer.answer(params, prompts, options)]

    def rehearse(self, params: Any) -> None:
        """Evaluates one batch and generates one token, so that a fault shows before the first step of training.

        It uses the shapes and the programs of a later evaluation, so it compiles nothing else.
        """
        limit = self.config.training.eval_examples
        self.losses(params, most_batches=1)
        if self._scores(limit):
            self.generate(Devices.first(params), min(limit, BATCH), Options(temperature=0, max_new_tokens=1))

    def shown(self, params: Any, count: int) -> tuple[list[Example], list[Generation]]:
        """Returns `count` examples with an output each, from the last evaluation if that generated any."""
        numbers = self.chosen(count)
        if self._generated.keys() >= {*numbers}:
            outputs = [self._generated[number] for number in numbers]
        else:
            outputs = self.generate(params, count, Options(temperature=0))
        return self.encoded.split.examples.read(numbers), outputs

    def evaluate(self, params: Any, limit: int | None = None) -> dict[str, Any]:
        """Returns the metrics of the split. The text of `chosen(limit)` examples is generated greedily and scored.

        For a mixture, `parts` has the metrics of each source.
        """
        scores, of_parts = self._scores(limit), {}
        generations = self.generate(Devices.first(params), limit, Options(temperature=0)) if scores else []
        of_number = self._generated = dict(zip(self.chosen(limit), generations, strict=True)) if scores else {}
        if self.parts:
            stats_n2 = self.likelihoods(params)["loss"].stats_ns
            nats, tokens = stats_n2.sum(axis=0)
            for name, part in self.parts.items():
                of_parts[name] = self.figures(*stats_n2[self.rows_of(part.numbers)].sum(axis=0), part)
                if scores:
                    numbers = [number for number in part.numbers if number in of_number]
                    scored = self.scored(numbers, [of_number[number] for number in numbers])
                    of_parts[name] = metrics.joined(of_parts[name], scored)
        else:
            nats, tokens = self.losses(params)
        figures = self.figures(nats, tokens)
        if scores:
            figures = metrics.joined(figures, self.scored(self.chosen(limit), generations))
        return figures | ({"parts": of_parts} if of_parts else {})

    def figures(self, nats: float, tokens: float, part: Part | None = None) -> dict[str, Any]:
        """Returns loss (nats per token), perplexity, bits_per_byte, and the floor if the data knows it.

        With unknown tokens, these are likelihoods of the targets with any unknown words in their place. Metrics whose
        names end in `_spelled` are likelihoods of the targets themselves, see `Unknown.nats`. A metric without a
        defined value is None, and `undefined` has the reason.
        """
        part = part or self.whole
        loss, spelled = statistics.quotient(nats, tokens), nats + part.lost.nats
        to_bits = lambda nats: statistics.quotient(nats / math.log(2), part.target_bytes)
        found = {"loss": loss, "perplexity": statistics.exponential(loss), "bits_per_byte": to_bits(nats)}
        figures = {name: statistics.defined(value) for name, value in found.items()} | {
            "tokens": int(tokens),
            "unknown_tokens": part.lost.tokens,
            "unknown_bytes": part.lost.bytes,
        }
        if self.encoded.unpointed:  # examples whose target is no span of their source have no likelihood
            rows = self.rows_of(part.numbers)
            missing = self.encoded.unpointed if part is self.whole else len(part.numbers) - (rows.stop - rows.start)
            figures["left_out"] = missing
        if part.lost.altered:
            figures["altered_texts"] = part.lost.altered
        if self.spells(part):
            figures["bits_per_byte_spelled"] = statistics.defined(to_bits(spelled))
        if part.floor is not None:
            figures["nats_per_example"] = statistics.defined(nats / len(part.numbers))
            if self.spells(part):
                figures["nats_per_example_spelled"] = statistics.defined(spelled / len(part.numbers))
            figures["floor_nats_per_example"] = part.floor
        undefined = {name: self._reason(name, nats, tokens) for name, value in figures.items() if value is None}
        return figures | ({"undefined": undefined} if undefined else {})

    def _reason(self, name: str, nats: float, tokens: float) -> str:
        """Returns the reason why a likelihood from these sums is not defined."""
        if not tokens:
            return "no target is a span of its source" if self.encoded.unpointed else "there is no target"
        if not math.isfinite(nats):
            return "an example has probability 0"
        return "its exponential is no float" if name == "perplexity" else "the targets have no bytes"

    def spells(self, part: Part) -> bool:
        """Returns whether there are metrics with the unknown tokens of these examples spelled out."""
        return part.lost.tokens > 0 and self.answer.among == "texts"

    def scored(self, numbers: Sequence[int], generations: Sequence[Generation]) -> dict[str, Any]:
        """The task's scores of outputs for the examples of these numbers."""
        references = [example.references for example in self.encoded.split.examples.read(numbers)]
        outputs = [one.output for one in generations]
        measured = metrics.measure(TASKS[self.config.data.task].scores, outputs, references)
        return metrics.figures(measured) | {"generated": len(outputs)}

    def likelihoods(self, params: Any) -> dict[str, Metric]:
        """Returns loss, perplexity and bits per byte as metrics, in one pass, by example or by stretch of a stream.

        `params` are replicated on the devices. See `statistics.stretches`.
        """
        nats_n, tokens_n, bytes_n, spelling_n = self._sums(params)
        found = {
            "loss": statistics.ratio(nats_n, tokens_n),
            "perplexity": statistics.perplexity(nats_n, tokens_n),
            "bits_per_byte": statistics.ratio(nats_n, bytes_n, 1 / math.log(2)),
        }
        if self.spells(self.whole):
            found["bits_per_byte_spelled"] = statistics.ratio(nats_n + spelling_n, bytes_n, 1 / math.log(2))
        sums = nats_n.sum(), tokens_n.sum()
        return {
            name: metric._replace(reason=self._reason(name, *sums), bounds=(max(0.0, metric.bounds[0]), math.inf))
            for name, metric in found.items()
        }

    def _sums(self, params: Any) -> Iterator[np.ndarray]:
        """Returns nats, tokens, bytes and the nats of spelling unknown tokens out, each float64 by example or stretch.

        The bytes of a stretch's unknown tokens are those that each has on average; their sum is exact.
        """
        bytes_v = np.array([*map(len, surfaces(self.answer.tokenizer))])
        columns = np.ones_like(bytes_v), bytes_v, np.arange(len(bytes_v)) == UNK
        data, paired, numbers, found = self.config.data, self.answer.model.has_encoder, [], []

        def numbered() -> Iterator[Batch]:
            for chosen, batch in feed.numbered_evaluation_batches(self.encoded, data):
                numbers.append(chosen)
                yield batch

        passed = numbered() if paired else feed.evaluation_batches(self.encoded, data)
        for padded, (nats_b,) in self._stepped(self._rows_of, params, passed):
            counted = [np.sum(padded.weights_bt * each_v[padded.targets_bt], axis=1) for each_v in columns]
            stats_b4 = np.stack([self.devices.join(nats_b), *counted], axis=1)
            found.append(stats_b4[: len(numbers[-1])] if paired else stats_b4)
        if paired:
            stats_n4 = np.concatenate(found).astype(np.float64)[np.argsort(np.concatenate(numbers))]
        else:
            stats_n4 = statistics.stretches(np.stack(found).astype(np.float64))
        nats_n, tokens_n, bytes_n, unknown_n = stats_n4.T
        lost, lost_n3 = self.encoded.lost, self.encoded.lost_n3
        each = len(lost_n3) == len(unknown_n) and paired  # else of all together
        unknown_bytes_n = lost_n3[:, 1] if each else unknown_n * (lost.bytes / max(lost.tokens, 1))
        bytes_n += unknown_bytes_n
        # What a tokenizer leaves out at a text's start is shared among all.
        bytes_n *= statistics.quotient(self.encoded.target_bytes, bytes_n.sum())
        spelling_n = (unknown_n + unknown_bytes_n) * SYMBOL
        return (of_n[tokens_n > 0] for of_n in (nats_n, tokens_n, bytes_n, spelling_n))

    def classes(self, params: Any) -> tuple[list[Generation], dict[str, Metric]]:
        """The likeliest label for each example, and the calibration of the labels' probabilities, which sum to 1."""
        examples, labels = self.encoded.split.examples, list(self.answer.labels)
        prompts = [example.source for example in examples]
        # Ranked once, all labels of each: the first is the answer, the others are what it is calibrated against.
        ranked = self.answer.answer(params, prompts, Options(num_samples=len(labels)))
        nats_of = [{one.output: one.log_probability for one in each} for each in ranked]
        nats_nl = np.array([[nats[label] for label in labels] for nats in nats_of])
        probabilities_nl = np.exp(nats_nl - np.logaddexp.reduce(nats_nl, axis=1, keepdims=True))
        found = [each[0] for each in ranked]
        gold = metrics.gold_labels([one.output for one in found], [example.references for example in examples])
        gold_n = np.array([labels.index(label) if label in labels else -1 for label in gold])
        return found, statistics.calibration(probabilities_nl, gold_n)

    def _scores(self, limit: int | None) -> bool:
        return bool(TASKS[self.config.data.task].scores) and limit != 0
