"""Streams that are closed, full, broken or not UTF-8: what programs print arrives whole, or they end in one line."""

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.programs import ROOT, environment, run_alone, run_program
from support.sizes import sized

from lm.errors import Stopped, UserError
from lm.terminal import bar, output, prompts

OTHER_LOCALE = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOT_ASCII = "żółć 你好 \U0001f600\u2028\x85|"


@contextlib.contextmanager
def stream(descriptor):
    """A text stream over a file descriptor, which is let go of afterwards, whatever is left in it."""
    made = open(descriptor, "w", encoding="utf-8")  # noqa: SIM115
    try:
        yield made
    finally:
        os.dup2(os.open(os.devnull, os.O_WRONLY), made.fileno())
        made.close()


def test_output_that_a_program_exists_for_ends_it_where_it_cannot_be_written():
    with stream(os.open("/dev/full", os.O_WRONLY)) as full:
        needed = output._Needed(full, "standard output")
        with pytest.raises(UserError, match="error: standard output: cannot be written .No space left"):
            print("text", file=needed, flush=True)
        print("more", file=needed, flush=True)  # it leads nowhere now, so that the end of the process is quiet
    reading, writing = os.pipe()
    os.close(reading)
    with stream(writing) as broken, pytest.raises(Stopped, match="closed by its reader") as stopped:
        print("text", file=output._Needed(broken, "standard output"), flush=True)
    assert stopped.value.number == signal.SIGPIPE


def test_streams_write_utf8_and_no_character_stops_them(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    output.use_utf8()
    output.say(f"{NOT_ASCII}\ud800")
    assert raw.getvalue().decode() == f"{NOT_ASCII}\\ud800\n"


# Programs that print what they were given, and which of their streams has it.
PROGRAMS = {
    "sample": ["sample.py", "{run}", "--max_new_tokens=3", "--greedy", "--prompt={text}", "--json"],
    "data": ["-m", "lm.data", "{data}"],
    "evaluate": ["-m", "lm.evaluate", "{run}", "--split=żółć"],
    "pipeline": ["-m", "lm.pipeline", "żółć.py"],
    "train": ["train.py", "--config=żółć.py"],
}


@pytest.mark.parametrize("name", sized(list(PROGRAMS), lambda name: name in ("sample", "train")))
def test_programs_say_the_same_in_every_locale(name, trained, tmp_path):
    (tmp_path / "żółć.tsv").write_text(f"{NOT_ASCII}\tä\n" * 3)
    named = {"run": str(trained["streams"]), "text": NOT_ASCII, "data": f"tsv:{tmp_path}/żółć.tsv"}
    command = [argument.format(**named) for argument in PROGRAMS[name]]
    expected = run_program(*command)
    done = run_alone(*command, before=f"import os; os.environ |= {OTHER_LOCALE}", encoding="utf-8")
    assert (done.returncode, done.stdout, done.stderr) == (expected.returncode, expected.stdout, expected.stderr)
    assert "żółć" in done.stdout + done.stderr


FULL = "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)"
BROKEN = "ends = os.pipe(); os.dup2(ends[1], 1); os.close(ends[0]); os.close(ends[1])"
# How streams are -> exit code, standard error beside the run's line, whether an answer comes.
STREAMS = {
    "output full": (FULL, 2, "error: standard output: cannot be written .*", False),
    "output closed": ("os.close(1)", 2, "error: standard output: is closed; .*", False),
    "output broken": (BROKEN, 128 + signal.SIGPIPE, "standard output was closed by its reader", False),
    "error closed": ("os.close(2)", 0, "", True),
    "error full": (FULL.replace(" 1)", " 2)").replace("), 1)", "), 2)"), 0, "", True),
    "input closed": ("os.close(0)", 0, "", True),
}


@pytest.mark.parametrize("name", sized(list(STREAMS), lambda name: name in ("output closed", "error full")))
def test_sampling_with_a_closed_or_broken_stream_ends_without_a_traceback(name, trained):
    before, code, said, answers = STREAMS[name]
    command = ["sample.py", str(trained["streams"]), "--max_new_tokens=3", "--prompt=one"]
    done = run_alone(*command, before=f"import os; {before}")
    assert done.returncode == code
    lines = done.stderr.splitlines() if name.split()[0] != "error" else []
    assert [line for line in lines if "step" not in line] == [] if not said else re.fullmatch(said, lines[-1])
    assert len(lines) <= 2 and done.stdout.startswith("one" if answers else "")


@pytest.mark.parametrize("flag", sized(["--input_file=-", "--interactive"], lambda flag: flag == "--interactive"))
def test_a_closed_standard_input_is_named_where_it_is_read(flag, trained):
    done = run_alone("sample.py", str(trained["streams"]), flag, before="import os; os.close(0)")
    assert done.returncode == 2 and "error: standard input: is closed" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "program", [["-m", "lm.data", "{data}"], ["-m", "lm.evaluate", "{run}"]], ids=["data", "evaluate"]
)
@pytest.mark.parametrize("name", ["output full", "output closed", "output broken"])
def test_programs_whose_output_is_their_purpose_end_in_one_line(program, name, trained, sources):
    before, code, said, _ = STREAMS[name]
    command = [argument.format(run=trained["buckets"], data=sources["seq2seq"]) for argument in program]
    kept = trained["buckets"] / "evaluations"
    try:
        done = run_alone(*command, before=f"import os; {before}")
        assert done.returncode == code and re.fullmatch(said, done.stderr.strip())
        assert kept.exists() == ("lm.evaluate" in command)  # the record was written before
    finally:
        for path in kept.glob("*"):
            path.unlink()
        kept.rmdir() if kept.exists() else None


@pytest.mark.parametrize("text", ["a\nb\n", "a\r\nb", "a\nb", "\ufeffa\nb\n"])
def test_lines_of_prompts_end_with_a_newline_and_nothing_else(text, tmp_path):
    (tmp_path / "prompts").write_bytes(
        (text + "\n" * (not text.endswith("\n")) + "c\u2028d\x85e\x0cf\rg\x1ch\n").encode()
    )
    assert prompts.read([], str(tmp_path / "prompts")) == ["a", "b", "c\u2028d\x85e\x0cf\rg\x1ch"]


def test_progress_is_said_at_intervals_where_there_is_no_terminal(monkeypatch, capsys):
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(bar.time, "monotonic", lambda: next(now))
    assert list(bar.counted(range(8), 12, "prompt", 4)) == list(range(8))
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.splitlines() == ["8 of 12 prompts", "12 of 12 prompts"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_file_of_outputs_that_a_signal_cut_is_completed_by_the_same_command(number, trained, tmp_path):
    (tmp_path / "many.txt").write_text("".join(f"ant {'bee ' * (i % 7)}{i}\n" for i in range(20_000)))
    command = ["sample.py", str(trained["buckets"]), f"--input_file={tmp_path}/many.txt", "--max_new_tokens=6"]
    file = tmp_path / "out.txt"
    started = subprocess.Popen(
        [sys.executable, *command, f"--output_file={file}"],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (file.exists() and file.read_bytes().count(b"\n") > 100):
        assert started.poll() is None
        time.sleep(0.01)
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert started.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or said.splitlines()[-1] == f"stopped by {number.name}"
    there = file.read_bytes().count(b"\n")
    assert 100 < there < 20_000
    done = run_program(*command, f"--output_file={file}")
    assert done.returncode == 0 and f"already holds the outputs of {there:,} of 20,000 prompts" in done.stderr
    assert file.read_text() == run_program(*command).stdout
