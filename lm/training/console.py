"""The lines that `train.py` prints: a header, progress, a line per evaluation, samples, and the commands to run
next.
"""

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from tqdm import tqdm

from lm.answers.contract import Generation
from lm.config import Config, Group
from lm.data import labelling
from lm.data.encoding import Encoded
from lm.data.feed import TrainingData
from lm.data.read.examples import Example
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.devices.mesh import Devices
from lm.recurrence import CELLS, Execution, GatedCell
from lm.recurrence.gated.drivers import has_kernel
from lm.terminal.output import say
from lm.training import optimizers


def header(
    config: Config,
    directory: epath.Path,
    devices: Devices,
    params: Any,
    encoded: dict[str, Encoded],
    tokenizer: Tokenizer,
    data: TrainingData,
    steps: int,
    groups: Sequence[Group],
    start: int,
) -> None:
    """Prints the header: the run, its devices, model and data."""
    rows = [("run", str(directory) + (f", resumed after step {start:,}" if start else ""))]
    kinds = {device.device_kind for device in devices.devices}
    count = f"{len(devices)} x {', '.join(sorted(kinds))}"
    if jax.process_count() > 1:
        count += f" on {jax.process_count()} hosts"
    rows.append(("devices", f"{count}, {config.training.parallel}, batch of {config.data.batch_size}"))
    sizes = {name: sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
    modules = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
    rows.append(("parameters", f"{sum(sizes.values()):,} ({modules})"))
    rows.append(("recurrence", _recurrence(config, devices)))
    if len(groups) > 1:
        rows += [("group", line) for line in group_lines(groups, params)]
    for name, split in encoded.items():
        text = f"{split.documents:,} examples, {split.tokens:,} target tokens, {split.target_bytes:,} bytes"
        if lost := split.lost.tokens:
            text += f", {lost:,} of these tokens unknown ({split.lost.bytes:,} bytes)"
        if split.unknown > lost:
            text += f", {split.unknown - lost:,} tokens of sources unknown"
        if split.unpointed:
            text += f", {split.unpointed:,} more whose target is no span of their source are left out of the loss"
        note = f" ({split.split.note})" if split.split.note else ""
        rows.append((name, f"{split.split.spec}: {text}{note}"))
        if split.split.report:
            counts = [
                line for line in split.split.report.lines() if not line.startswith("    ")
            ]  # without the examples
            rows += [("", line.strip()) for line in counts[not config.data.cleaning :]]
        rows += [("warning", text) for text in split.split.warnings]
    labels = labelling.of_splits(config, {name: split.split.examples for name, split in encoded.items()})
    rows += [("labels", f"{name} {labelling.listing(counts)}") for name, counts in labels.items()]
    rows += [("warning", text) for text in labelling.warnings(labels, tokenizer)]
    if data.left_out:
        rows.append(("left out", f"{data.left_out:,} training pairs longer than {config.data.max_length} tokens"))
    rows.append(("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} ids"))
    epochs = steps / data.steps_per_epoch
    padding = f", {data.padding:.0%} of positions are padding"
    rows.append(("epoch", f"{data.steps_per_epoch:,} steps, {data.tokens_per_epoch:,} target tokens{padding}"))
    rows.append(("training", f"{steps:,} steps, {epochs:.3g} epochs"))
    for name, text in rows:
        say(f"{name:<11} {text}")
    say("")


def _recurrence(config: Config, devices: Devices) -> str:
    """Returns the cell and the program that runs it over time, as text."""
    model, cell = config.model, CELLS[config.model.cell]
    units = model.hidden_dim // model.heads
    heads = f"{model.heads} heads of " if model.heads > 1 else ""
    cells = f"{model.cell}, {heads}{units} hidden units"
    if not issubclass(cell, GatedCell):
        return f"{cells}, parallel over time"
    rows = config.data.batch_size // (len(devices) * config.training.accumulate)
    run = Execution(model.heads, model.dtype, model.backward, driver=model.driver)
    kernel = has_kernel(run, units, rows, devices.devices[0].platform)
    return f"{cells}, {'a fused kernel' if kernel else 'a loop over time'}"


def group_lines(groups: Sequence[Group], params: Any) -> list[str]:
    """Returns a line for each group of the optimizer: its parameters and their learning rate."""
    flat, group_of = flatten_dict(params, sep="/"), optimizers.assigned(groups, params)
    lines = []
    for group in groups:
        own = [np.size(flat[name]) for name in flat if group_of[name] == group]
        how = f"{group.factor:g} of the learning rate" if group.factor else "frozen"
        how += f", from step {group.begin:,}" if group.begin else ""
        lines.append(f"{group.pattern}: {sum(own):,} in {len(own)} arrays, {how}")
    return lines


def transferred(where: str, report: dict[str, list[str]]) -> None:
    """Prints the names of the parameters that were loaded from another run."""
    say(f"from {where}: {len(report['loaded'])} parameters loaded")
    for kind, names in report.items():
        if names:
            say(f"  {kind}: {', '.join(names)}")


class Bar:
    """A bar on a terminal; plain lines elsewhere."""

    def __init__(self, start: int, steps: int):
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not sys.stderr.isatty(), leave=False, dynamic_ncols=True
        )
        self._steps = steps
        self._recent: list[tuple[float, float]] = []  # (seconds, tokens) of the last steps

    def update(self, step: int, loss: float, tokens: float, seconds: float) -> None:
        self._recent = [*self._recent[-49:], (seconds, tokens)]
        if self._bar.disable:
            return
        self._bar.update(step - self._bar.n)
        self._bar.set_postfix_str(f"loss {loss:.3f}, {self._rate():,.0f} tokens/s", refresh=False)

    def _rate(self) -> float:
        if len(self._recent) < 2:
            return 0.0
        elapsed = self._recent[-1][0] - self._recent[0][0]
        return sum(tokens for _, tokens in self._recent[1:]) / max(elapsed, 1e-9)

    def line(self, record: dict[str, Any]) -> None:
        """Prints the line of a record of metrics; records of training only if there is no progress bar."""
        if record["split"] == "train" and not self._bar.disable:
            return
        say(f"step {record['step']:>7,}  {record['seconds']:>8.1f} s  {record['split']:<10}  {figures(record)}")
        for name, part in record.get("parts", {}).items():
            say(f"  {name}: {figures({'split': record['split'], **part})}")

    def close(self) -> None:
        self._bar.close()


def figures(record: dict[str, Any]) -> str:
    """Returns the metrics of a record as one line."""

    def said(name: str, form: str) -> str:
        return "undefined" if record[name] is None else format(record[name], form)

    shown = [f"loss {said('loss', '.4f')}"]
    if record["split"] == "train":
        if "unknown_share" in record:
            shown[0] += f" ({record['unknown_share']:.2%} of tokens unknown)"
        shown.append(f"{record['tokens_per_second']:,.0f} tokens/s")
        shown.append(f"learning rate {record['learning_rate']:.2e}")
        shown.append(f"gradient norm {record['grad_norm']:.2f}")
        return ", ".join(shown)
    shown.append(f"perplexity {said('perplexity', '.2f')}")
    shown.append(f"{said('bits_per_byte', '.3f')} bits/byte")
    if record.get("unknown_tokens"):
        shown.append(f"{record['unknown_tokens']:,} of {record['tokens']:,} tokens unknown")
        shown[-1] += f" ({record['unknown_bytes']:,} bytes)"
    if record.get("altered_texts"):
        shown.append(f"{record['altered_texts']:,} texts altered by the tokenizer")
    if "bits_per_byte_spelled" in record:
        shown.append(f"{said('bits_per_byte_spelled', '.3f')} bits/byte with them spelled out")
    if "exact_match" in record:
        shown.append(f"exact match {said('exact_match', '.1%')} of {record['generated']:,}")
    if "squad_f1" in record:
        shown.append(f"F1 {said('squad_f1', '.1%')}")
    if "bleu" in record:
        shown.append(f"BLEU {said('bleu', '.1f')}")
    if record.get("nats_per_example") is not None:
        spelled = record.get("nats_per_example_spelled")
        above = (spelled or record["nats_per_example"]) - record["floor_nats_per_example"]
        floor = f"{above:.2f} nats per example above the floor of {record['floor_nats_per_example']:.2f}"
        shown.append(floor + ", unknown tokens spelled out" * bool(spelled))
    return ", ".join(shown)


def samples(examples: Sequence[Example], generations: Sequence[Generation]) -> None:
    """Prints a few outputs, with their references if there are any."""
    say("")
    for one, example in zip(generations, examples, strict=True):
        if example.source is None:
            say(f"{one.prompt}{one.output}")
            continue
        same = "same" if one.output in example.references else "DIFFERS"
        known = " | ".join(dict.fromkeys(example.references))
        say(f"source    {example.source}\nreference {known}\noutput    {one.output}   [{same}]\n")


def best(records: list[dict[str, Any]]) -> None:
    """Prints the evaluation with the lowest loss, whose checkpoint is `best`."""
    validation = [record for record in records if record["split"] == "validation" and record["loss"] is not None]
    if validation:
        chosen = min(validation, key=lambda record: record["loss"])
        say(f"\nBest on validation: step {chosen['step']:,}, {figures(chosen)}\n")


def waited(waited: float, seconds: float) -> None:
    """Prints the time that training waited for data."""
    say(f"\nWaiting for data took {waited / max(seconds, 1e-9):.1%} of {seconds:.1f} s of training.")


def saving(saving: float, seconds: float) -> None:
    """Prints the time that training waited for checkpoints, most of which are written while it continues."""
    say(f"Writing checkpoints took {saving:.1f} s, {saving / max(seconds, 1e-9):.1%}.")


def beginning(text: str, most: int = 20) -> str:
    """Returns the beginning of a text's first line, at most `most` characters, cut between words if it has spaces."""
    line = text.split("\n")[0]
    return line if len(line) <= most else line[: most + 1].rpartition(" ")[0] or line[:most]


def commands(directory: epath.Path, prompt: str) -> None:
    """Prints the commands to run next."""
    place = shlex.quote(str(directory))
    script = sys.modules["__main__"].__spec__ is None  # started as train.py of a checkout, which also has sample.py
    say("Next:")
    say(f"  python {'sample.py' if script else '-m lm.sample'} --workdir={place} --prompt={shlex.quote(prompt)}")
    say(f"  python -m lm.evaluate --workdir={place} --split=validation")
    say(f"  tensorboard --logdir={place}")
