"""Help: every program answers -h, names what is near to an unknown flag or field, and says in each error what to do."""

import ast
import re
from collections.abc import Iterator

import pytest
from support.programs import ROOT, run_programs
from support.sizes import sized

from lm.config import Config, check_path, fields, near_fields
from lm.errors import UserError


def starts_a_program(path) -> bool:
    return re.search(r"^    program\(", path.read_text(), re.MULTILINE) is not None


PROGRAMS = {"train.py": ["train.py"], "sample.py": ["sample.py"], "lm.data": ["-m", "lm.data"]} | {
    f"{folder}.{path.stem}": ["-m", f"{folder}.{path.stem}"]
    for folder in ("lm", "benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if starts_a_program(path)
}


@pytest.mark.parametrize("flag", sized(["-h", "--help", "--helpfull"], lambda flag: flag == "-h"))
def test_every_program_prints_help_and_exits_with_0(flag):
    names = [name for name in PROGRAMS if flag == "-h" and not name.startswith("benchmarks.")] or [*PROGRAMS]
    found = run_programs(*(([*PROGRAMS[name], flag], "") for name in names))
    for name, done in zip(names, found, strict=True):
        assert (done.returncode, done.stderr) == (0, ""), name
        said = done.stdout.split("\nflags:\n")
        assert len(said) == 2 and said[0].strip() and "--[no]debug" in said[1], name
        assert "absl" not in said[1] and "logtostderr" not in said[1], name
    assert len(names) >= 5


def test_what_looks_like_a_request_for_help_may_be_the_value_of_a_flag():
    (done,) = run_programs((["sample.py", "--workdir=runs/none", "--prompt", "-h"], ""))
    assert done.returncode == 2 and "runs/none" in done.stderr


def test_help_of_training_has_a_line_for_each_field_with_meaning_default_and_range(tmp_path):
    text = "from lm.config import *\ndef get_config():\n    return Config(seed=7)\n"
    (tmp_path / "other.py").write_text(text)
    asked = ["--help"], [f"--config={tmp_path}/other.py", "-h"], [f"--config={tmp_path}/none.py", "-h"]
    plain, other, broken = run_programs(*((["train.py", *each], "") for each in asked))
    lines = plain.stdout.splitlines()
    assert any(line.startswith("  --config  ") for line in lines) and any("  --workdir  " in line for line in lines)
    for path, section, field in fields(Config()):
        (line,) = [line for line in lines if line.startswith(f"  --config.{path}=")]
        default = getattr(section, field.name)
        assert (",".join(default) if isinstance(default, tuple) else str(default)) in line
        assert field.metadata["help"] in line
        assert all(choice in line for choice in field.metadata["choices"]), line
        assert field.metadata["low"] == -float("inf") or f"{field.metadata['low']:g}" in line, line
    assert "--config.seed=7" in other.stdout and "--config.seed=0" in plain.stdout
    assert broken.returncode == 0 and "none.py" in broken.stdout and "--config.seed=0" in broken.stdout


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("training.learning_rate", "optimizer.learning_rate"),
        ("batch_size", "data.batch_size"),
        ("model.lr", "optimizer.learning_rate"),
        ("modle.cell", "model.cell"),
        ("training.lerning_rate", "optimizer.learning_rate"),
        ("hidden_size", "model.hidden_dim"),
        ("num_layers", "model.layers"),
        ("tokenizer.vocab_size", "data.tokenizer.vocab_size"),
        ("data.tokeniser.kind", "data.tokenizer.kind"),
    ],
)
def test_the_nearest_field_is_looked_for_in_all_sections(name, nearest):
    assert nearest in near_fields(name)
    with pytest.raises(UserError, match=rf"did you mean .*--config\.{re.escape(nearest)}\b"):
        check_path(name, "--config.")


def test_every_field_is_found_by_its_name_in_a_wrong_section():
    for path, _, _ in fields(Config()):
        assert path in near_fields(f"elsewhere.{path.rpartition('.')[2]}")


# A command line -> what the refusal must say.
NEAR = {
    "train.py --batch_size=8": "--config.data.batch_size",
    "train.py --learning_rate 1": "--config.optimizer.learning_rate",
    "train.py --wrkdir=x": "--workdir",
    "train.py configs/translate.py": "--config=configs/translate.py",
    "train.py seed=4": "--config.seed",
    "train.py config.seed=4": "--config.seed=4",
    "train.py --config.model=gru": "model.cell",
    "train.py --config.seed=1 --config=configs/translate.py": "give --config first",
    "sample.py --temperatur=1 --workdir=x": "--temperature",
    "sample.py --num_sample=2 --workdir=x": "--num_samples",
    "-m lm.evaluate --checkpont=best": "--checkpoint",
    "-m lm.evaluate --beam=3": "--beam_size",
    "-m lm.data configs/translate.py --window=3": "--config.data.window",
    "-m lm.pipeline --task=translate": "--tasks",
}


def test_a_wrong_command_line_names_the_flag_that_is_meant():
    found = run_programs(*((line.split(), "") for line in NEAR))
    for (line, meant), done in zip(NEAR.items(), found, strict=True):
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, (line, done.stderr)
        assert meant in done.stderr.partition("; ")[2], (line, done.stderr)


CONFIG_FILES = {  # what is in a file -> where its refusal begins, and a word of it
    "def get_config(:\n": (":1: SyntaxError", "correct"),
    "x = 1\n": (": defines no function get_config", "get_config()"),
    "get_config = 3\n": (": defines no function get_config", "get_config()"),
    "x = 1\n\ndef get_config():\n    pass\n": (":3: get_config() returned None", "return lm.config.Config"),
    "def get_config():\n    return {}\n": (":1: get_config() returned dict", "return lm.config.Config"),
    "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()\n": (
        ":2: get_config()",
        "ConfigDict",
    ),
    "import sys\nsys.exit(3)\n": (":2: SystemExit", "correct"),
    "\n\nimport lm.nothing\n": (":3: ModuleNotFoundError", "lm.nothing"),
    "def get_config():\n    return 1 / 0\n": (":2: ZeroDivisionError", "correct"),
    "def f():\n    return f()\ndef get_config():\n    return f()\n": (":2: RecursionError", "correct"),
    "from lm.config import *\ndef get_config(text):\n    return Config()\n": (": TypeError", "FILE:TEXT"),
    "from lm.config import *\ndef get_config():\n    return Config(modle=3)\n": (":3: TypeError", "modle"),
    "import lm\nfrom lm.config import *\ndef get_config():\n    return lm.changed(Config(), {'model.sell': 'gru'})\n": (
        ":4: config.model.sell: is not a field",
        "config.model.cell",
    ),
}


def test_a_config_file_that_is_none_is_refused_in_one_line_that_names_the_line_of_the_file(tmp_path):
    calls = []
    for number, text in enumerate(CONFIG_FILES):
        (tmp_path / f"file{number}.py").write_text(text)
        calls.append((["train.py", f"--config={tmp_path}/file{number}.py", "--config.seed=1"], ""))
    for call, (begin, word), done in zip(calls, CONFIG_FILES.values(), run_programs(*calls), strict=True):
        file = call[0][1].partition("=")[2]
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith(f"error: {file}{begin}") and word in done.stderr, done.stderr


def test_flags_replace_fields_of_a_file_that_returns_a_validated_configuration(tmp_path):
    (tmp_path / "made.py").write_text(
        "import lm\nfrom lm.config import *\n"
        "def get_config():\n"
        "    data = DataConfig(train='tsv:none.tsv', tokenizer=TokenizerConfig(kind='bytes'))\n"
        "    return lm.changed(Config(data=data), {'seed': 3})\n"
    )
    flags = ["--config.model.cell=gru", "--config.training.steps=2 epochs", "--config.data.cleaning=nfc"]
    ((done),) = run_programs((["train.py", f"--config={tmp_path}/made.py", *flags, f"--workdir={tmp_path}/run"], ""))
    assert done.returncode == 2 and done.stderr.startswith("error: none.tsv: no such file"), done.stderr


# ---- every message ----------------------------------------------------------------------------------------------


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    """The strings in a tree that are no docstrings."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    yield from (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts
    )


def test_every_refusal_says_what_to_do():
    """An action is more than a word, and "mend it" is none."""
    seen = 0
    for path in [ROOT / "train.py", ROOT / "sample.py", *(ROOT / "lm").rglob("*.py")]:
        tree = ast.parse(path.read_text())
        for text in strings(tree):
            assert not re.search(r"\bmend\b", text.value), f"{path}:{text.lineno}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "UserError":
                assert len(node.args) == 3, f"{path}:{node.lineno}"
                seen += 1
                action = node.args[2]
                if isinstance(action, ast.Constant):
                    assert len(action.value.split()) > 1 or action.value == "install it", f"{path}:{node.lineno}"
    assert seen > 200
