"""python docs/generate.py: writes the pages of docs/reference/ from the code. A test compares them with it.

`config.md` lists the fields of the configuration, `cli.md` the flags of all programs, `api.md` the modules, whose
docstrings Sphinx inserts.
"""

import json
import math
import pathlib
import pkgutil
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import lm  # noqa: E402
from lm.config import Config, fields  # noqa: E402
from lm.config.schema import TOKENIZERS  # noqa: E402
from lm.config.tasks import TASKS  # noqa: E402

PROGRAMS = ("train", "sample", "evaluate", "score", "pipeline", "data.__main__")
# Modules without a place among the modules: programs and flags, which `cli.md` has, and the configs of a wheel.
FLAGS = (*(f"lm.{name}" for name in PROGRAMS), "lm.terminal", "lm.configs")
SECTIONS = {
    "": "Seed",
    "data": "Data",
    "data.tokenizer": "Tokenizer",
    "data.noise": "Noise",
    "model": "Model",
    "optimizer": "Optimizer",
    "training": "Training",
}
# A help may begin with the tasks, layouts, tokenizers or other choices that read the field, and a colon.
READERS = {"conversations", *TOKENIZERS} | {layout for task in TASKS.values() for layout in task.layouts}
READERS |= {choice for _, _, field in fields(Config()) for choice in field.metadata["choices"]}

CONFIG = """# Fields of the configuration

All fields, with their type and range, default and meaning. Each is set in a config file, or on the command line by
`--config.SECTION.FIELD=VALUE`. The column *read by* names the tasks, tokenizers or optimizers that read a field, if not
all do. A `Duration` is a number of [steps, epochs or tokens](../training.md#durations). `Names` are strings, with
commas between them on the command line. This page is written by `python docs/generate.py` from `lm/config/schema.py`.
"""
CLI = """# Flags of the programs

All programs and their flags. `--help` prints the same. `train.py` and `lm.data` also accept each
[field of the configuration](config.md). This page is written by `python docs/generate.py`.
"""
API = """# Modules

The public classes and functions of each module, from their docstrings. [The house](../house.md) says what each folder
is for. This page is written by `python docs/generate.py`; Sphinx inserts the docstrings.
"""


def cell(text: str) -> str:
    """Returns a text for a cell of a Markdown table."""
    return escaped(re.sub(r"\s+", " ", text)).replace("|", "\\|").strip()


def escaped(text: str) -> str:
    """Returns plain text as Markdown: signs of emphasis and of HTML outside code are escaped."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"[\\*<]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


# ---- config.md --------------------------------------------------------------------------------------------------


def config_page() -> str:
    """Returns the page of all fields, one table per section."""
    rows: dict[str, list[tuple[str, ...]]] = {name: [] for name in SECTIONS}
    for path, section, field in fields(Config()):
        readers, meaning = read_by(field.metadata["help"])
        value = getattr(section, field.name)
        values = ", ".join(filter(None, (field.type.__name__, limits(field))))
        row = (f"`{path}`", values, shown(value), cell(meaning), readers)
        rows[path.rpartition(".")[0]].append(row)
    head = ("field", "type", "default", "meaning", "read by")
    return "\n".join([CONFIG, *(f"## {title}\n\n{table(head, rows[name])}" for name, title in SECTIONS.items())])


def read_by(text: str) -> tuple[str, str]:
    """Returns the names before the colon with which a help may begin, and the rest."""
    names, colon, rest = text.partition(": ")
    words = re.split(r",\s*| and | or ", names.removeprefix("not "))
    return (names, rest) if colon and {*words} <= READERS else ("", text)


def shown(value: object) -> str:
    """Returns the default of a field."""
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    return f"`{text}`".replace("|", "\\|") if text else "empty"


def limits(field) -> str:
    """Returns the range of a field's values, without choices that its help lists."""
    choices, low, high, below = (field.metadata[name] for name in ("choices", "low", "high", "below"))
    if not all(choice in field.metadata["help"] for choice in choices):
        return "one of " + ", ".join(f"`{choice}`" for choice in choices if choice)
    if low > -math.inf and high < math.inf:
        return f"{low:g} to {high:,}"
    if low > -math.inf:
        return f"at least {low:g}" + (f", less than {below:g}" if below < math.inf else "")
    return ""


# ---- cli.md -----------------------------------------------------------------------------------------------------

# Each program is asked for its help in a process of its own, and prints it as JSON.
ASK = """
import json, runpy, sys
from lm.terminal import help
def text(argv, description, has_fields):
    flags = [[f.name, f.boolean, f.default_as_str or "", f.help.partition(help.REPEAT)[0]] for f in help.own_flags()]
    return json.dumps([description, flags])
help.text, sys.argv = text, [sys.argv[1], "--help"]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def cli_page() -> str:
    """Returns the page of all programs, with their description and a table of their flags."""
    parts = [CLI]
    for program in PROGRAMS:
        done = subprocess.run([sys.executable, "-c", ASK, f"lm.{program}"], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        description, flags = json.loads(done.stdout)
        usage, _, text = description.strip().partition("\n\n")
        rows = [flag_row(*flag) for flag in flags]
        name = program.partition(".")[0]
        title = f"{name}.py" if program in ("train", "sample") else f"lm.{name}"
        parts.append(
            f"## {title}\n\n```text\n{usage}\n```\n\n{escaped(text)}\n\n{table(('flag', 'default', 'meaning'), rows)}"
        )
    return "\n".join(parts)


def flag_row(name: str, boolean: bool, default: str, meaning: str) -> tuple[str, str, str]:
    """Returns the row of a flag."""
    flag = f"`--[no]{name}`" if boolean else f"`--{name}`"
    default = default.strip("'").replace("[]", "").replace("None", "")
    return flag, f"`{default}`" if default else "", cell(meaning)


# ---- api.md -----------------------------------------------------------------------------------------------------


def api_page() -> str:
    """Returns the page of all modules, a section per folder of `lm/`."""
    found: dict[str, list[str]] = {}
    for module in pkgutil.walk_packages(lm.__path__, "lm."):
        name = module.name
        if not name.startswith(FLAGS):
            folder = name.split(".")[1] if module.ispkg or name.count(".") > 1 else ""
            found.setdefault(folder, []).append(name)
    parts = [API]
    for folder in sorted(found):
        parts.append(f"## lm.{folder}\n" if folder else "## lm\n")
        parts += [block(name) for name in (["lm"] if not folder else []) + sorted(found[folder])]
    return "\n".join(parts)


def block(module: str) -> str:
    """Returns the directive that inserts the docstrings of a module."""
    return f"### {module}\n\n```{{eval-rst}}\n.. automodule:: {module}\n```\n"


PAGES = {"config.md": config_page, "cli.md": cli_page, "api.md": api_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (ROOT / "docs" / "reference" / name).write_text(page(), encoding="utf-8")
