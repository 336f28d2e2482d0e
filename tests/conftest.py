"""Eight simulated devices, a compilation cache that tests share, and one trained run of each layout."""

import atexit
import contextlib
import fcntl
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

# Before JAX starts.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests in this process compile more than they compute; programs that they start are compiled as users' are.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share that of the process that started them
    # Not kept, or a test could pass with what older code made.
    os.environ["LM_CACHE_DIR"] = tempfile.mkdtemp(prefix="lm-tests-")
    atexit.register(shutil.rmtree, os.environ["LM_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402
import pytest  # noqa: E402

from benchmarks import kill  # noqa: E402
from lm.config import (  # noqa: E402
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainingConfig,
    from_json,
    to_json,
    validated,
)

ROOT = pathlib.Path(__file__).parent.parent


def environment(devices: int = 1) -> dict[str, str]:
    """Of a program's process; it has a number of simulated devices of its own."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}


def run_program(*arguments: str, devices: int = 1, **options) -> subprocess.CompletedProcess:
    """A program of the project as a user starts it, from the repository's root."""
    command, caught = [sys.executable, *arguments], {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=ROOT, env=environment(devices), **caught, **options)


def run_programs(*calls: tuple[list[str], str]) -> list[subprocess.CompletedProcess]:
    """As `run_program`, for many calls, each of arguments and the text of standard input; see forked.py."""
    done = run_program("tests/forked.py", input=json.dumps(calls))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    return [subprocess.CompletedProcess(call[0], *answer) for call, answer in zip(calls, answers, strict=True)]


def tree_of(directory: pathlib.Path) -> dict[str, bytes]:
    """All files of a directory, and what is in them."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def tiny_config(layout: str, source: str, changes: dict[str, object] | None = None) -> Config:
    """A model that trains in a second, all that is random turned on; `changes` are by dotted path."""
    streams = layout == "streams"
    config = Config(
        data=DataConfig(
            train=source,
            test=source,
            task="lm" if streams else "seq2seq",
            batch_size=8,
            window=16,
            buckets=2,
            evaluation_streams=3,
            tokenizer=TokenizerConfig("characters") if streams else TokenizerConfig("unigram", 280),
        ),
        model=ModelConfig(embed_dim=8, hidden_dim=16, layers=1, attention="dot", dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=3e-2, schedule="linear", warmup=5),
        training=TrainingConfig(steps=80, eval_every=24, checkpoint_every=18, log_every=10, eval_examples=8),
    )
    return changed(validated(config), changes or {})


def changed(config: Config, changes: dict[str, object]) -> Config:
    """A copy with other values at dotted paths."""
    tree = json.loads(to_json(config))
    for path, value in changes.items():
        *sections, name = path.split(".")
        section = functools.reduce(dict.__getitem__, sections, tree)
        assert name in section, path
        section[name] = value
    return from_json(json.dumps(tree), "test")


@pytest.fixture(scope="module", autouse=True)
def _programs_let_go():
    """Compiled programs do not outlive their file: each holds memory maps, of which Linux gives a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def story_text() -> str:
    """Text that a tiny model learns something of: counting up and down in words."""
    words = "one two three four five six seven eight nine ten".split()
    lines = [" ".join(words[i : i + 4]) for i in range(7)] + [" ".join(reversed(words[i : i + 4])) for i in range(7)]
    return "\n".join(lines[(7 * i) % 14] for i in range(300)) + "\n"


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    """Pairs to learn: a word list and its reverse, of unequal lengths."""
    words = "ant bee cat dog eel fox gnu hen".split()
    lists = [[words[(i * (k + 3) + k * k) % 8] for k in range(1 + i % 5)] for i in range(200)]
    return [(" ".join(each), " ".join(reversed(each))) for each in lists]


@contextlib.contextmanager
def once(tmp_path_factory, name: str) -> Iterator[tuple[pathlib.Path, bool]]:
    """(a directory that all workers share, whether it is yet to be filled); the others wait meanwhile."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder, done = base / name, base / f"{name}.done"
        folder.mkdir(exist_ok=True)
        yield folder, not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def sources(tmp_path_factory, story_text, pairs) -> dict[str, str]:
    """The same as files: specs by task."""
    with once(tmp_path_factory, "data") as (folder, empty):
        if empty:
            (folder / "story.txt").write_text(story_text)
            (folder / "pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return {"lm": f"text:{folder}/story.txt", "seq2seq": f"tsv:{folder}/pairs.tsv"}


@pytest.fixture(scope="session")
def configs(sources) -> dict[str, Config]:
    """The configuration of each trained run, by layout."""
    return {"streams": tiny_config("streams", sources["lm"]), "buckets": tiny_config("buckets", sources["seq2seq"])}


@pytest.fixture(scope="session")
def trained(tmp_path_factory, configs) -> dict[str, pathlib.Path]:
    """The directory of a finished run of each layout, trained by train.py; tests read it and change nothing."""
    with once(tmp_path_factory, "runs") as (folder, empty):
        for layout, config in configs.items() if empty else ():
            finished = run_program(*kill.command(config, folder / layout)[1:])
            assert finished.returncode == 0, finished.stderr
            (folder / f"{layout}.stdout").write_text(finished.stdout)
            (folder / f"{layout}.stderr").write_text(finished.stderr)
    return {layout: folder / layout for layout in configs}
