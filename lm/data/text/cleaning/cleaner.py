"""The cleaner: applies the cleaning steps to the examples of a split."""

import collections
import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm.data.read.examples import Example, Examples, blank, kept
from lm.data.read.report import SHOWN, Report, StepReport, excerpt
from lm.data.read.store import Finished, key_of, remembered
from lm.data.text.cleaning.duplicates import Keys, Remembering, in_lines, key_of_example, lines_of
from lm.data.text.cleaning.steps import IDENTITY, Call, parse


class Cleaner:
    """One pass over the training data, in order; it remembers earlier examples.

    Args:
        steps: the texts of the steps (see `steps.py`).
        evaluation: validation and test examples, already changed by the same steps (`change`). They are read once for
            each step that compares with them, and once for the overlap.

    Raises:
        UserError: see `parse`.
    """

    def __init__(self, steps: Sequence[str], evaluation: Iterable[Example] = ()):
        self._calls = parse(steps)
        parts = lambda: (part for example in evaluation for part in lines_of(example))
        self._evaluation, self._found = Keys(parts()), []
        self._overlapping: set[int] = set()  # indices of evaluation keys that also occur in training data
        self._functions = [
            call.step.function(parts(), *call.numbers) if call.step.kind == "drops" else call.step.function
            for call in self._calls
        ]
        self._interrupted = False
        self.report = Report({call.text: StepReport() for call in self._calls}, evaluation=self._evaluation.all)

    def memory(self) -> bytes:
        """Returns the state that `resume` needs with the report: everything new since the last call."""
        steps = [step for step in self._functions if isinstance(step, Remembering)]
        new = json.dumps([self._interrupted, self._found, [step.new for step in steps]])
        self._found = []
        for step in steps:
            step.new = []
        return new.encode()

    def resume(self, report: dict[str, Any], memories: Iterable[bytes]) -> None:
        """Restores the state of a cleaner at its last `memory`, from its report then and all its memories."""
        self.report = Report.from_dict(copy.deepcopy(report))  # a copy, as it will change
        for memory in memories:
            self._interrupted, found, news = json.loads(memory)
            self._overlapping.update(found)
            steps = [step for step in self._functions if isinstance(step, Remembering)]
            for step, new in zip(steps, news, strict=True):
                step.recall(new)

    def change(self, example: Example) -> Example:
        """Returns an example after the steps that change text; it may be blank then. The report does not count it."""
        for call, function in zip(self._calls, self._functions, strict=True):
            if call.step.kind == "changes":
                example = _changed(function, example)
        return example

    def clean(self, example: Example) -> Example | None:
        """Returns an example after all steps in order; None if a step dropped it, or a change left a side blank."""
        self.report.examples_in += 1
        if self._interrupted and example.continued:  # the piece that it continues was dropped
            example = dataclasses.replace(example, continued=False)
        cleaned = self._through_steps(example)
        self._interrupted = cleaned is None
        if cleaned is not None:
            self.report.examples_out += 1
            if self._evaluation.all:
                self._look_for_overlap(cleaned)
        return cleaned

    def _through_steps(self, example: Example) -> Example | None:
        for call, function in zip(self._calls, self._functions, strict=True):
            report = self.report.steps[call.text]
            if call.step.kind == "changes":
                after = _changed(function, example)
                if after is not example and any(map(blank, after.sides)) and not any(map(blank, example.sides)):
                    after = None
                elif after is not example:
                    report.changed += 1
                    report.show(example, after)
            else:
                keep = functools.partial(_keeps, function, call)
                after = _with_lines(keep, example, report)
            if after is None:
                report.dropped += 1
                if call.step.kind == "changes" or not in_lines(example):  # of texts, the report shows the lines
                    report.show(example, None)
                return None
            example = after
        return example

    def _look_for_overlap(self, example: Example) -> None:
        parts = list(lines_of(example))
        for part, place in zip(parts, self._evaluation.find([*map(key_of_example, parts)]).tolist(), strict=True):
            if place >= 0 and place not in self._overlapping:
                self._overlapping.add(place)
                self._found.append(place)
                self.report.overlap += int(self._evaluation.counts[place])
                if len(self.report.overlap_shown) < SHOWN:
                    self.report.overlap_shown += excerpt(part, None)


def _keeps(function: Callable[..., bool], call: Call, example: Example) -> bool:
    return function(example, *call.numbers) if call.step.kind == "keeps" else function(example)


def _changed(function: Callable[[str], str], example: Example) -> Example:
    """Returns the example itself if nothing changes, otherwise a new one without a log-probability."""
    source, target = example.source and function(example.source), function(example.target)
    others = example.others and tuple(map(function, example.others))
    if (source, target, others) == (example.source, example.target, example.others):
        return example
    return dataclasses.replace(example, source=source, target=target, others=others, log_prob=None)


def _with_lines(keep: Callable[[Example], bool], example: Example, report: StepReport) -> Example | None:
    """Returns the example, for a text without the lines that `keep` rejects; None if nothing is left."""
    if not in_lines(example):
        return example if keep(example) else None
    lines, kept = example.target.split("\n"), []
    for line in lines:
        part = Example(None, line)
        if blank(line) or keep(part):
            kept.append(line)
        else:
            report.lines += 1
            report.show(part, None)
    if len(kept) == len(lines):
        return example
    if all(map(blank, kept)):
        return None
    return dataclasses.replace(example, target="\n".join(kept), log_prob=None)


def changed(examples: Examples, steps: Sequence[str]) -> Examples:
    """Returns evaluation data after the steps that change text."""
    cleaner = Cleaner([call.text for call in parse(steps) if call.step.kind == "changes"])

    def make(finished: Sequence[Finished]) -> Iterator[Example]:
        done = sum(shard.note["examples"] for shard in finished)
        return map(cleaner.change, examples.from_number(done))

    return kept(key_of("changed", IDENTITY, steps, examples.fingerprint), make, "cleaning evaluation data")


def cleaned(train: Examples, steps: Sequence[str], evaluation: Examples) -> tuple[Examples, Report]:
    """Returns training data after all steps, and the report; `evaluation` is the result of `changed`."""
    cleaner: Cleaner | None = None
    identity = (IDENTITY, steps, train.fingerprint, evaluation.fingerprint)

    def make(finished: Sequence[Finished]) -> Iterator[Example]:
        nonlocal cleaner
        cleaner = Cleaner(steps, evaluation)
        if finished:
            cleaner.resume(finished[-1].note["report"], [shard.memory for shard in finished])
        for example in train.from_number(cleaner.report.examples_in):
            if clean := cleaner.clean(example):
                yield clean

    if not steps:  # nothing changes, but the overlap is always reported
        report = remembered(
            key_of("overlap", *identity), lambda: (collections.deque(make(()), 0), cleaner.report.as_dict())[1]
        )
        return train, Report.from_dict(report)
    found = kept(
        key_of("cleaned", *identity),
        make,
        "cleaning train",
        note=lambda: {"report": cleaner.report.as_dict()},
        memory=lambda: cleaner.memory(),
    )
    return found, Report.from_dict(found.notes[-1]["report"])
