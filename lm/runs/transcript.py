"""Outputs as lines of text or JSON, and a file of such lines that a second start continues."""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, BinaryIO

from lm import json_files
from lm.answers.contract import Generation
from lm.errors import UserError
from lm.runs import arrays, writing
from lm.runs.run import Run
from lm.search.options import Options

_FORM = {"parameters": [str], "options": {str: object}, "format": str, "prompts": int, "input": str}
SHOWN = ("prompt", "output", "log_probability", "tokens", "ended")
# The backslash, and all characters that some program reads as the end of a line; so different outputs stay different.
_ESCAPES = {ord(sign): repr(sign)[1:-1] for sign in "\\\n\r\x1c\x1d\x1e\x85\u2028\u2029"} | {11: "\\v", 12: "\\f"}
_IN_JSON = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029"}


class Transcript:
    """Turns outputs into lines, and counts what the final remarks report.

    Args:
        how: the options of decoding.
        as_json: whether an output is a JSON object.
        by_line: whether each prompt gets exactly `how.num_samples` lines, as prompts are lines themselves.
        begins: whether a prompt is the beginning of its text, so that the text is printed with it.
    """

    def __init__(self, how: Options, as_json: bool, by_line: bool, begins: bool):
        self._how, self._json, self._by_line, self._begins = how, as_json, by_line, begins
        self._names = (*SHOWN, *(["stop"] if how.stop else []), *(["satisfied"] if how.constrains else []))
        self._prompts = self._outputs = self._escaped = self._broken = self._fewer = self._failed = 0

    def lines(self, prompt: str, outputs: Sequence[Generation]) -> list[str]:
        """Returns the lines of one prompt."""
        self._prompts += 1
        self._outputs += len(outputs)
        self._failed += sum(not one.satisfied for one in outputs)
        missing = self._how.num_samples - len(outputs)
        self._fewer += missing > 0
        nothing = dict.fromkeys(self._names) | {"prompt": prompt}
        shown: list[Any] = [{name: getattr(one, name) for name in self._names} for one in outputs]
        shown += [nothing] * missing if self._by_line else []
        if self._json:
            return [json.dumps(one, ensure_ascii=False).translate(_IN_JSON) for one in shown]
        texts = ["" if one["output"] is None else prompt * self._begins + one["output"] for one in shown]
        self._broken += sum(len(text.splitlines()) > 1 or text.endswith("\n") for text in texts)
        if not self._by_line:
            return texts
        whole = [text.translate(_ESCAPES) for text in texts]
        self._escaped += sum(one != text for one, text in zip(whole, texts, strict=True))
        return whole

    def remarks(self) -> list[str]:
        """Returns a sentence for each problem that the lines do not show, e.g. escaped line breaks."""
        found, of = [], f"of {self._outputs:,} outputs"
        if self._escaped:
            reason = r"have line breaks or backslashes, which are written as \n, \r, \\ and so on"
            found.append(f"{self._escaped:,} {of} {reason}; --json keeps them")
        elif self._broken and self._outputs > 1:
            found.append(
                f"{self._broken:,} {of} have line breaks, so they take several lines; --json prints one line per output"
            )
        if self._fewer:
            filled = "; the missing ones are empty lines" if self._by_line else ""
            reason = f"have fewer outputs than --num_samples={self._how.num_samples}{filled}"
            found.append(f"{self._fewer:,} of {self._prompts:,} prompts {reason}")
        if self._failed:
            asked = [f"--{name}" for name in ("ban", "force", "min_new_tokens") if getattr(self._how, name)]
            action = "raise --max_new_tokens or --beam_size, or ask for less"
            found.append(f"{self._failed:,} {of} do not meet {' and '.join(asked)}; {action}")
        return found


def opened(path: str, runs: Sequence[Run], prompts: Sequence[str], how: Options, as_json: bool) -> "OutputFile":
    """Returns the file for these outputs; its record has everything that they depend on.

    Raises:
        UserError: as `OutputFile` does.
    """
    record = {
        "runs": [f"{run.workdir}, step {run.step}" for run in runs],
        "parameters": [arrays.fingerprint(run.params) for run in runs],
        "options": json.loads(json.dumps(dataclasses.asdict(how))),
        "format": "json" if as_json else "text",
        "prompts": len(prompts),
        "input": hashlib.sha256("\n".join(prompts).encode()).hexdigest()[:16],
    }
    return OutputFile(path, record, how.num_samples)


class OutputFile:
    """A file of complete lines, with a record in `FILE.json` of the command that started it.

    If the file exists, a half-written last prompt is removed, and the outputs of later prompts are appended.

    Args:
        path: the file.
        record: everything that the outputs depend on. It must equal the record of an existing file, except for the
            paths of runs, which may have moved.
        lines_each: the number of lines of each prompt.

    Attributes:
        done: the number of prompts whose lines were in the file already.

    Raises:
        UserError: the file is not an output of the same command, or another process writes it.
    """

    def __init__(self, path: str, record: dict[str, Any], lines_each: int):
        self.path = pathlib.Path(path).expanduser()
        self._record = self.path.with_name(f"{self.path.name}.json")
        if "://" in path or (self.path.exists() and not self.path.is_file()):
            raise UserError(path, "is not a regular file of this machine", "give a file, or leave out --output_file")
        existed = self.path.exists()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("ab+")
        try:
            self._check(record)
        except UserError:
            if not existed:
                self.path.unlink()
            raise
        lines, end = self._whole_lines(lines_each)
        self.done = lines // lines_each
        if self.done > record["prompts"]:
            raise UserError(path, f"has {lines:,} lines, too many for this input", "give another --output_file")
        self._file.truncate(end)
        writing.write_whole(self._record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _check(self, record: dict[str, Any]) -> None:
        path, other = str(self.path), "give another --output_file, or move it away"
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                path, "is being written by another process", "wait, or give another --output_file"
            ) from None
        if not self._record.exists():
            if os.path.getsize(path):
                raise UserError(path, f"exists, and no {self._record.name} says that it is an output", other)
            return
        was = json_files.read(self._record, "record of an output file", _FORM, other)
        options = {f"--{name}": value for name, value in was["options"].items()}
        now = {f"--{name}": value for name, value in record["options"].items()}
        kept = ("parameters", "format", "prompts", "input")  # a run may have moved
        was, now = ({name: each[name] for name in kept} | of for each, of in ((was, options), (record, now)))
        changed = [
            f"{name} ({was.get(name)} -> {now.get(name)})" for name in now | was if was.get(name) != now.get(name)
        ]
        if changed:
            raise UserError(
                path, f"was started with another {', '.join(changed)}", f"give the same command, or {other}"
            )

    def _whole_lines(self, lines_each: int) -> tuple[int, int]:
        """Returns the number of lines of complete prompts, and the position where they end."""
        self._file.seek(0)
        lines = whole = end = at = 0
        for line in self._file:
            at += len(line)
            lines += line.endswith(b"\n")
            if line.endswith(b"\n") and lines % lines_each == 0:
                whole, end = lines, at
        return whole, end

    def write(self, lines: Sequence[str]) -> None:
        """Writes the lines of one prompt."""
        try:
            self._file.write("".join(f"{line}\n" for line in lines).encode())
            self._file.flush()
        except OSError as error:
            error.filename = str(self.path)  # a failed write does not name its file
            raise
