"""The learning curve of a run as an image, drawn from its `metrics.jsonl`."""

import io
import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any

from etils import epath

from lm.runs import log, writing

_SHOWN = {"train": ("training", "0.65"), "validation": ("validation", "tab:blue")}  # split: label, color


def write(workdir: epath.Path) -> epath.Path | None:
    """Writes `curve.png`: the losses of training and validation in nats per token, against the step.

    A dotted line shows the floor if the data has one: the entropy of the process that generates the validation data. No
    model has a lower mean loss.

    Returns:
        The file; None if no loss was logged.
    """
    records = [record for record in log.read_metrics(workdir) if record.get("loss") is not None]
    if not records:
        return None
    path = workdir / "curve.png"
    writing.require_inside(workdir, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the font may lack characters of the name
        writing.write_whole(path, _drawn(records, workdir.name))
    return path


def floor_per_token(record: dict[str, Any]) -> float | None:
    """Returns the floor of an evaluation in nats per token; None if the data has no floor."""
    floor, nats = record.get("floor_nats_per_example"), record.get("nats_per_example")
    if not floor or not nats:
        return None
    return record["loss"] * floor / nats  # nats per example over the loss: tokens per example


def _drawn(records: Sequence[dict[str, Any]], title: str) -> bytes:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it announces the cache of fonts that it makes once
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # only here: it takes half a second
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown = []
    for split, (label, color) in _SHOWN.items():
        points = [(record["step"], record["loss"]) for record in records if record["split"] == split]
        if points:
            few = len(points) <= 30
            axes.plot(*zip(*points, strict=True), color=color, label=label, marker="o" if few else None, markersize=3)
            shown += [loss for _, loss in points]
    floors = [floor for record in records if (floor := floor_per_token(record))]
    if floors:
        axes.axhline(floors[-1], color="black", linestyle=":", label="floor (entropy of the data)")
        shown.append(floors[-1])
    if min(shown) > 0 and max(shown) / min(shown) > 10:
        axes.set_yscale("log")
    axes.set_title(os.fsencode(title).decode(errors="replace"), parse_math=False)  # a name, also with a $ in it
    axes.set(xlabel="step", ylabel="loss (nats per token)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    written = io.BytesIO()
    FigureCanvasAgg(figure).print_png(written, metadata={"Software": None})  # the same bytes from the same metrics
    return written.getvalue()
