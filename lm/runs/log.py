"""A run's `metrics.jsonl`, and the same numbers for TensorBoard."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

from etils import epath
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.compat.tensorflow_stub.io.gfile import GFile
from tensorboard.summary.writer.record_writer import RecordWriter

from lm import files, json_files
from lm.errors import UserError
from lm.runs.writing import require_there, write_whole


class MetricsLog:
    """`metrics.jsonl`, and the same numbers for TensorBoard.

    A run that goes on from step `step` first drops what a killed process wrote after it, so that the file is the one an
    uninterrupted run would have written.
    """

    def __init__(self, workdir: epath.Path, step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line, record in _records(self.path) if record["step"] <= step and step]
        write_whole(self.path, "".join(line + "\n" for line in kept))
        # Nothing can be appended to in a bucket, so there the file, which is small, is written anew with each line.
        self._written = [line + "\n" for line in kept]
        self._file = None if "://" in str(workdir) else self.path.open("a", encoding="utf-8")
        # TensorBoard's own writer has a thread, which dies by itself where the directory is removed; this one raises.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._events = RecordWriter(GFile(str(workdir / name), "wb"))
        self._add(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # TensorBoard drops what other files say of later steps.
        self._add(event_pb2.Event(step=step + 1, session_log=start))

    def _add(self, event: event_pb2.Event) -> None:
        self._events.write(event.SerializeToString())
        self._events.flush()

    def write(self, record: dict[str, Any]) -> None:
        """`record` has step, split and scalars; the line is with the operating system when this returns."""
        values = [
            summary_pb2.Summary.Value(tag=f"{record['split']}/{name}", simple_value=float(value))
            for name, value in record.items()
            if name != "step" and isinstance(value, (int, float))
        ]
        event = event_pb2.Event(
            wall_time=time.time(),
            step=record["step"],
            summary=summary_pb2.Summary(value=values),
        )
        try:
            line = json.dumps(record) + "\n"
            if self._file:
                self._file.write(line)
                self._file.flush()
            else:
                self._written.append(line)
                self.path.write_text("".join(self._written), encoding="utf-8")
            self._add(event)
        except OSError as error:
            require_there(self.path.parent)
            error.filename = str(self.path)  # a write that fails names no file
            raise

    def close(self) -> None:
        with contextlib.suppress(OSError):  # every line was flushed, and a failure raised then
            if self._file:
                self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()


class NoLog:
    """That of every host but the first."""

    def __init__(self, workdir: epath.Path, step: int):
        pass

    def write(self, record: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """All records of `metrics.jsonl`."""
    return [record for _, record in _records(workdir / "metrics.jsonl")]


# What is printed of a record, by its split. Versions before 0.3.1 wrote a perplexity beyond all floats as `Infinity`.
_PRINTED = {
    "train": ("loss", "tokens_per_second", "learning_rate", "grad_norm"),
    "validation": ("loss", "perplexity", "bits_per_byte"),
}
_OF_SOME = (
    *("exact_match", "generated", "squad_f1", "bleu", "nats_per_example", "floor_nats_per_example"),
    *("nats_per_example_spelled", "bits_per_byte_spelled", "unknown_tokens", "unknown_bytes", "altered_texts"),
    *("unknown_share", "tokens", "seconds"),
)


def _require_figures(record: dict[str, Any]) -> None:
    """Raises `ValueError` where a figure that is printed is missing, or is neither a number nor null."""
    wanted = [*_PRINTED.get(record["split"], ())]
    wanted += [name for name in _OF_SOME if name in record]
    wanted += ["generated"] if "exact_match" in record else []
    wanted += ["floor_nats_per_example"] if "nats_per_example" in record else []
    wanted += ["unknown_bytes", "tokens"] if "unknown_tokens" in record else []
    for name in wanted:
        value = record.get(name, "")
        if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
            raise ValueError(f"its {name} is no number")


def _records(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line of metrics, as it is and as a record; without the last one where a killed process wrote half of it.

    Raises `UserError` for a line that this program did not write.
    """
    lines = files.read(path, "file of metrics").split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
            record = json_files.parsed(text, {"step": int, "split": str})
            _require_figures(record)
            yield text, record
        except ValueError:
            if number < len(lines):  # the last one is half, or empty as nothing is after the end of a line
                reason, action = (
                    "is no line of metrics",
                    "delete the line, or move the file away: training goes on without it",
                )
                raise UserError(f"{path}:{number}", reason, action) from None
