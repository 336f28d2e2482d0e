"""Everything that a page names exists: flags, fields, files, modules, links; and Sphinx lists every page."""

import importlib.util
import pathlib
import re
import runpy
import types

import pytest
from support.pages import DOCS, FENCE, PAGES, name_of
from support.programs import ROOT

from lm.config import Config, fields

GENERATED = sorted((DOCS / "reference").glob("*.md"))
FIELDS = {path for path, _, _ in fields(Config())}
SECTIONS = {path.rpartition(".")[0] for path in FIELDS} - {""}
# Flags of other programs that pages use, and of absl.
OTHERS = {"flagfile", "help", "logdir"}
# Paths that a reader of the page creates, or examples of such.
MADE = re.compile(r"^(runs|experiments|mine)/|^lm/(configs|addition)/|^lm/answers/count.py|^configs/addition.py|NAME")


@pytest.fixture(scope="module")
def flags() -> set[str]:
    """The flags of all programs and benchmarks, as the generated page and the sources have them."""
    found = set(re.findall(r"`--(?:\[no\])?(\w+)`", (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")))
    found |= {"config"} | {f"no{name}" for name in found}
    for file in (ROOT / "benchmarks").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        found |= set(re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", text)) | set(
            re.findall(r"add_argument\(\"--(\w+)\"", text)
        )
    return found


def codes(text: str) -> list[str]:
    """Returns the code spans of a page outside its blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))


def wrong_flags(text: str, flags: set[str]) -> list[str]:
    """Returns the flags and the fields after `--config.` that no program has."""
    lines = [
        line
        for line in text.splitlines()
        if not re.search(r"\b(pip|gcloud|git|pytest|worker|venv|SBATCH|Slurm)\b", line)
    ]
    named = re.findall(r"(?<![\w-])--([A-Za-z_][\w.-]*\w)", "\n".join(lines))
    asked = [name for name in named if not name.startswith("config.")]
    wrong = [name for name in asked if name.replace("-", "_") not in flags and name not in OTHERS]
    paths = {name.removeprefix("config.") for name in named if name.startswith("config.")}
    return wrong + sorted(paths - FIELDS - SECTIONS - {"section.field", "SECTION.FIELD"} - added(text))


def wrong_fields(text: str) -> list[str]:
    """Returns the code spans that look like fields of a section, and are none."""
    tops = "|".join(sorted({path.partition(".")[0] for path in SECTIONS}))
    named = [code for code in codes(text) if re.fullmatch(rf"({tops})(\.[a-z_0-9]+)+", code)]
    files = {file.name for file in ROOT.rglob("lm/**/*.py")}
    return [name for name in named if name not in FIELDS | SECTIONS | files | added(text)]


def added(text: str) -> set[str]:
    """Returns the fields that a recipe on the page adds, in any section."""
    new = re.findall(r"^ +(\w+): \w+ = _field\(", text, re.M)
    return {f"{section}.{name}" for section in SECTIONS for name in new}


def wrong_paths(page: pathlib.Path, text: str) -> list[str]:
    """Returns the code spans that look like files of the repository, and are none."""
    roots = [ROOT, ROOT / "lm", page.parent, ROOT / "tests", *(d for d in (ROOT / "lm").rglob("*") if d.is_dir())]
    tops = {path.name for root in (ROOT, ROOT / "lm") for path in root.iterdir()}
    wrong = []
    for code in codes(text):
        path = code.partition("::")[0]
        if not re.fullmatch(r"[\w./-]*(/[\w.-]+|/)", path) or path.startswith(("/", "~")) or MADE.search(path):
            continue
        ours = path.split("/")[0] in tops or path.endswith(".py")
        if ours and not any((root / path).exists() for root in roots):
            wrong.append(code)
    return wrong


def wrong_modules(text: str) -> list[str]:
    """Returns the names in code spans that begin with `lm.` and that Python does not find."""
    named = [code for code in codes(text) if re.fullmatch(r"lm(\.\w+)+(\(.*\))?", code)]
    return [name for name in named if not found(name.partition("(")[0])]


def found(name: str) -> bool:
    """Returns whether a dotted name is a module, or is in one."""
    parts = name.split(".")
    for number in range(len(parts), 0, -1):
        module = ".".join(parts[:number])
        try:
            if importlib.util.find_spec(module) is None:
                continue
        except ModuleNotFoundError:
            continue
        if number == len(parts):
            return True
        value: object = importlib.import_module(module)
        for part in parts[number:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def anchors(text: str) -> set[str]:
    """Returns the anchors that GitHub makes of the headings of a page."""
    made: dict[str, int] = {}
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in made else f"{slug}-{made[slug]}")
        made[slug] = made.get(slug, 0) + 1
    return found


def wrong_links(page: pathlib.Path, text: str) -> list[str]:
    """Returns the relative links whose file or anchor does not exist."""
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        target = page.parent / path if path else page
        if path and not target.exists():
            wrong.append(link)
        elif anchor and target.suffix == ".md":
            of = target.read_text(encoding="utf-8") if path else text
            wrong += [] if anchor in anchors(of) else [link]
    return wrong


@pytest.mark.parametrize("page", [*PAGES, *GENERATED], ids=name_of)
def test_everything_that_a_page_names_exists(page, flags):
    text = page.read_text(encoding="utf-8")
    assert wrong_flags(text, flags) == []
    assert wrong_fields(text) == []
    assert wrong_paths(page, text) == []
    assert wrong_modules(text) == []
    assert wrong_links(page, text) == []


def test_names_of_nothing_are_found(flags):
    assert wrong_flags("python train.py --workdri=W --config.model.cel=gru --config.model.cell=gru", flags) == [
        "workdri",
        "model.cel",
    ]
    assert wrong_fields("`model.cell` `model.cel` `training.steps`") == ["model.cel"]
    assert wrong_paths(DOCS / "a.md", "`lm/batch.py` `lm/bitch.py` `configs/nothing.py` `runs/x/y.json`") == [
        "lm/bitch.py",
        "configs/nothing.py",
    ]
    assert wrong_modules("`lm.config.changed` `lm.config.chnaged` `lm.nothing`") == ["lm.config.chnaged", "lm.nothing"]
    text = "# One title\n[a](#one-title) [b](#two) [c](data.md#nowhere) [d](nowhere.md) [e](data.md) [f](https://x.y)"
    assert wrong_links(DOCS / "a.md", text) == ["#two", "data.md#nowhere", "nowhere.md"]


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.S)
    listed = {line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")}
    pages = {str(file.relative_to(DOCS).with_suffix("")) for file in DOCS.rglob("*.md") if "_build" not in file.parts}
    pages |= {file.stem for file in DOCS.glob("*.ipynb")}
    assert listed == pages - {"index"}


@pytest.fixture(scope="module")
def generate() -> types.SimpleNamespace:
    return types.SimpleNamespace(**runpy.run_path(str(DOCS / "generate.py")))


@pytest.mark.parametrize("name", ["config.md", "cli.md", "api.md"])
def test_a_generated_page_is_as_the_code_writes_it(generate, name):
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == generate.PAGES[name](), (
        "run python docs/generate.py"
    )


def test_generated_tables_show_text_as_it_is(generate):
    assert generate.cell("a|b <x> .*=>1,.*=>0 `c*|`") == "a\\|b \\<x> .\\*=>1,.\\*=>0 `c*\\|`"
    assert generate.read_by("lm, prefix: text") == ("lm, prefix", "text")
    assert generate.read_by("not lm: text") == ("not lm", "text") and generate.read_by("one: text") == ("", "one: text")
