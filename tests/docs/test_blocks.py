"""Every block of a page that is marked `run` runs, after those before it on its page; see shrunk.py."""

import atexit
import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

import pytest
from support.pages import PAGES, Block, blocks, name_of
from support.programs import ROOT, UNOPTIMIZED

# The `python` that blocks find on their PATH: it starts in a fiftieth of a second, and asks shrunk.py.
CLIENT = """\
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["DOCS_SOCKET"])
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(server, [request.encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or b"1"))
"""
FAST = ("docs/concepts.md",)


@functools.cache
def environment() -> dict[str, str]:
    """The environment of blocks, whose `python` is that of shrunk.py, which is started here."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lm-docs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    left = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    base = left | {"XLA_FLAGS": UNOPTIMIZED, "PYTHONPATH": str(ROOT), "DOCS_SOCKET": str(folder / "socket")}
    # Nobody else may read the data sets, which are smaller than their names say.
    base |= {"TFDS_DATA_DIR": str(folder / "tfds"), "LM_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-P", str(ROOT / "tests" / "support" / "shrunk.py"), base["DOCS_SOCKET"]]
    paths = base | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    server = subprocess.Popen(command, cwd=ROOT, env=paths, stdout=subprocess.PIPE, text=True)
    atexit.register(server.kill)
    assert server.stdout.readline() == "listening\n"
    client = folder / "python"
    client.write_text(f"#!{sys.executable} -ISE\n{CLIENT}")
    client.chmod(0o755)
    return base | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def write_inputs(folder: pathlib.Path) -> None:
    """Writes the programs, the configs and made-up data into a folder, by the names that pages use."""
    for name in ("train.py", "sample.py"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    draw = random.Random(0)
    words = [
        "".join(draw.choices(["ba", "den", "ki", "lor", "mu", "ne", "s", "tri", "vo", "x"], k=3)) for _ in range(300)
    ]
    english = [" ".join(draw.choices(words, k=draw.randint(3, 9))).capitalize() + "." for _ in range(500)]
    german = [" ".join(word + "en" for word in reversed(text[:-1].lower().split())) + "." for text in english]
    pairs, at = list(zip(german, english, strict=True)), iter(range(500))

    def write(name: str, lines: list[str]) -> None:
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def take(number: int) -> list[tuple[str, str]]:
        return [pairs[next(at)] for _ in range(number)]

    def records(name: str, made: list[dict]) -> None:
        write(name, [json.dumps(each, ensure_ascii=False) for each in made])

    (folder / "mine").mkdir()
    write("mine/a.txt", english)
    for name, number in {"train": 200, "val": 24, "test2016": 24}.items():
        some = take(number)
        write(f"{name}.de", [source for source, _ in some])
        write(f"{name}.en", [target for _, target in some])
    write("pairs.tsv", ["\t".join(pair) for pair in pairs[:100]])
    write("new.tsv", ["\t".join(pair) for pair in take(24)])
    write("mono.de", german[400:450])
    write("new.de", german[450:455])
    write("prompts.txt", english[450:455])
    labels = ("positive", "negative")
    write("labelled.tsv", [f"{text}\t{labels[i % 2]}" for i, text in enumerate(english[:100])])
    records("data.jsonl", [{"source": source, "target": target} for source, target in pairs[:100]])
    asked = [(text, text.split()[0]) for text in english[:60]]
    records("questions.jsonl", [{"question": "Who?", "context": text, "answer": answer} for text, answer in asked])
    records("chats.jsonl", [{"turns": [*pairs[2 * i], *pairs[2 * i + 1]]} for i in range(50)])
    records("more.jsonl", [{"turns": [*pairs[2 * i], *pairs[2 * i + 1]]} for i in range(200, 210)])
    for name, first, last in (("train", 0, 100), ("validation", 100, 124), ("test", 124, 148)):
        records(f"{name}.jsonl", [{"source": english[i], "target": labels[i % 2]} for i in range(first, last)])
    write("vectors.txt", [f"{word} {' '.join(['0.1'] * 16)}" for word in words[:50]])


def run_page(page: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Runs the blocks of a page that are marked `run`, and returns what failed: page, line and standard error."""
    write_inputs(folder)
    done: list[Block] = []
    for block in blocks(page.read_text(encoding="utf-8")):
        if "run" not in block.words[1:]:
            continue
        if block.words[0] == "python":
            done.append(block)
            command = ["python", "-c", joined(done)]
        else:
            command = ["bash", "-euo", "pipefail", "-c", block.code]
        ran = subprocess.run(
            command,
            cwd=folder,
            env=environment() | {"DOCS_PAGE": name_of(page)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            executable=shutil.which(command[0], path=environment()["PATH"]),
        )
        if ran.returncode:
            return [f"{name_of(page)}:{block.line}: exit code {ran.returncode}\n{block.code}\n{ran.stderr[-4000:]}"]
    return []


def joined(parts: list[Block]) -> str:
    """Returns the Python of several blocks as one program, in which each line has the number that it has on the page."""
    text = ""
    for part in parts:
        text += "\n" * (part.line - 1 - text.count("\n")) + part.code
    return text


def cases():
    for page in PAGES:
        name = name_of(page)
        if any("run" in block.words[1:] for block in blocks(page.read_text(encoding="utf-8"))):
            yield pytest.param(page, id=name, marks=[] if name in FAST else [pytest.mark.slow])


@pytest.mark.parametrize("page", cases())
def test_blocks_marked_run_succeed(page, tmp_path):
    assert run_page(page, tmp_path) == []


def test_a_block_that_fails_is_named_by_page_and_line(tmp_path):
    shell = "# A\n\n```sh run\ntrue\n```\n\n```sh\nfalse\n```\n\n```sh run\npython -m lm.data no-such-thing\n```\n"
    python = "# A\n\n```python run\na = 1\n```\n\n```text\n```\n\n```python run\n\nassert a == 2\n```\n"
    for name, text, start, reason in (
        ("sh", shell, "sh.md:12: exit code 2", "error: SPEC"),
        ("py", python, "py.md:11: exit code 1", 'File "py.md", line 12'),
    ):
        (tmp_path / name).mkdir()
        page = tmp_path / f"{name}.md"
        page.write_text(text)
        (failed,) = run_page(page, tmp_path / name)
        assert failed.startswith(start) and reason in failed
