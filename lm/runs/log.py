"""The metrics of a run: `metrics.jsonl`, and the same numbers for TensorBoard."""

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
    """A writer of `metrics.jsonl` and of the same numbers for TensorBoard.

    A run that resumes from `step` first drops later lines, which a killed process wrote. So the file is the same as
    that of an uninterrupted run.
    """

    def __init__(self, workdir: epath.Path, step: int):
        self.path = workdir / "metrics.jsonl"
        kept = [line for line, record in _records(self.path) if record["step"] <= step and step]
        write_whole(self.path, "".join(line + "\n" for line in kept))
        # A file in a bucket cannot be appended to, so the whole file, which is small, is written again with each line.
        self._written = [line + "\n" for line in kept]
        self._file = None if "://" in str(workdir) else self.path.open("a", encoding="utf-8")
        # TensorBoard's own writer has a thread that ends silently if the directory is removed; this writer raises.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._events = RecordWriter(GFile(str(workdir / name), "wb"))
        self._add(event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        # This event makes TensorBoard drop later steps in other files.
        self._add(event_pb2.Event(step=step + 1, session_log=start))

    def _add(self, event: event_pb2.Event) -> None:
        self._events.write(event.SerializeToString())
        self._events.flush()

    def write(self, record: dict[str, Any]) -> None:
        """Writes a record with `step`, `split` and scalars, and flushes the line to the operating system."""
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
            error.filename = str(self.path)  # a failed write does not name its file
            raise

    def close(self) -> None:
        """Closes both files."""
        with contextlib.suppress(OSError):  # every line was flushed, and errors were raised then
            if self._file:
                self._file.close()
        with contextlib.suppress(OSError):
            self._events.close()


class NoLog:
    """The log of every host but the first, which writes nothing."""

    def __init__(self, workdir: epath.Path, step: int):
        pass

    def write(self, record: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def read_metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns all records of `metrics.jsonl`."""
    return [record for _, record in _records(workdir / "metrics.jsonl")]


# The metrics of a record that are printed, by split. Versions before 0.3.1 wrote a too large perplexity as `Infinity`.
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
    """Raises `ValueError` if a printed metric is missing, or is neither a number nor null."""
    wanted = [*_PRINTED.get(record["split"], ())]
    wanted += [name for name in _OF_SOME if name in record]
    wanted += ["generated"] if "exact_match" in record else []
    wanted += ["floor_nats_per_example"] if "nats_per_example" in record else []
    wanted += ["unknown_bytes", "tokens"] if "unknown_tokens" in record else []
    for name in wanted:
        value = record.get(name, "")
        if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
            raise ValueError(f"its {name} is not a number")


def _records(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields each line of metrics as text and as a record; a half-written last line of a killed process is left out.

    Raises:
        UserError: a line is not a record of metrics.
    """
    lines = files.read(path, "file of metrics").split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode()
            record = json_files.parsed(text, {"step": int, "split": str})
            _require_figures(record)
            yield text, record
        except ValueError:
            if number < len(lines):  # the last one may be half-written; after a complete file it is empty
                reason, action = (
                    "is not a line of metrics",
                    "delete the line, or move the file away; training starts a new one",
                )
                raise UserError(f"{path}:{number}", reason, action) from None
