"""Eight simulated devices, a compilation cache that tests share, and one trained run of each layout."""

import atexit
import contextlib
import fcntl
import functools
import gc
import os
import pathlib
import shutil
import tempfile
import types
from collections.abc import Iterator

from support.programs import ROOT, UNOPTIMIZED, run_programs

# Before JAX starts.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {UNOPTIMIZED}"
CACHE = ROOT / ".pytest_cache" / "compiled"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers share that of the process that started them
    # Not kept, or a test could pass with what older code made.
    os.environ["LM_CACHE_DIR"] = tempfile.mkdtemp(prefix="lm-tests-")
    atexit.register(shutil.rmtree, os.environ["LM_CACHE_DIR"], ignore_errors=True)

import jax  # noqa: E402

# In this process tests compile many a program that no other one will need.
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from support.configs import tiny_config  # noqa: E402
from support.drivers import interpreted  # noqa: E402, F401

from benchmarks import kill  # noqa: E402
from lm.config import Config  # noqa: E402
from lm.devices.mesh import Devices, Fsdp  # noqa: E402
from lm.training import loop  # noqa: E402

# Those that take longest, which begin first: else one worker is left with them when the others are done. The second needs
# none of the runs that the first one trains for all.
LONG = (
    "training recurrence blocks bad_input models pipeline readers programs evaluation parallel hosts config transfer "
    "copying"
)


def pytest_collection_modifyitems(items):
    order = [f"test_{name}" for name in LONG.split()]
    items.sort(key=lambda item: order.index(item.path.stem) if item.path.stem in order else len(order))


def pytest_collection_finish():
    """Tracing makes millions of objects that live on: the collector looks for garbage among them less often."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _key(value: object) -> object:
    """Equal for functions of the same code that have equal values in them, however often they were made."""
    match value:
        case types.FunctionType():
            inside = [cell.cell_contents for cell in value.__closure__ or ()]
            return value.__code__, _key((*inside, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).items()))
        case functools.partial():
            return _key((value.func, value.args, *value.keywords.items()))
        case Devices():
            return type(value), tuple(value.devices), value.shards
        case jax.Array() | np.ndarray():
            return str(value.dtype), value.shape, np.asarray(value).tobytes()
        case dict():
            return _key(tuple(value.items()))
        case list() | tuple():
            return type(value), tuple(map(_key, value))
    return value if value.__hash__ else id(value)


@pytest.fixture(scope="module", autouse=True)
def _programs_let_go():
    """Compiled programs do not outlive their file: each holds memory maps, of which Linux gives a process 65,530."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def quick_training():
    """Runs have two devices: eight on few cores wait for each other. And those of equal configurations share their
    programs, traced once in a file: that is most of a tiny run's time."""
    made: dict[object, tuple] = {}

    def once_each(make):
        def found(self, step, *how, **more):
            key = _key((self, make, step, how, more))
            # The step is kept too, so that an `id` in its key is that of no other object.
            return made.setdefault(key, (make(self, step, *how, **more), step))[0]

        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "devices_for", lambda *_: Devices(jax.devices()[:2]))
        for owner, name in ((Devices, "map"), (Devices, "compile"), (Fsdp, "compile")):
            patch.setattr(owner, name, once_each(getattr(owner, name)))
        yield


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
    changes = {"training.eval_examples": 8}
    given = {"streams": sources["lm"], "buckets": sources["seq2seq"]}
    return {layout: tiny_config(layout, source, changes) for layout, source in given.items()}


@pytest.fixture(scope="session")
def trained(tmp_path_factory, configs) -> dict[str, pathlib.Path]:
    """The directory of a finished run of each layout, trained by train.py; tests read it and change nothing."""
    with once(tmp_path_factory, "runs") as (folder, empty):
        if empty:
            calls = [(kill.command(config, folder / layout)[1:], "") for layout, config in configs.items()]
            for layout, finished in zip(configs, run_programs(*calls), strict=True):
                assert finished.returncode == 0, finished.stderr
                (folder / f"{layout}.stdout").write_text(finished.stdout)
                (folder / f"{layout}.stderr").write_text(finished.stderr)
    return {layout: folder / layout for layout in configs}
