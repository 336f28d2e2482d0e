"""The house of `lm`: a folder is a floor, and imports go down only."""

import ast
import collections
import pathlib

from support.programs import run_alone

import lm

FLOORS = (
    "errors files json_files numbers batch recurrence devices config tinyworld data layers models search terminal answers "
    "runs evaluation training lab programs"
).split()
PROGRAMS = ("lm.train", "lm.sample", "lm.evaluate", "lm.score", "lm.pipeline", "lm.data.__main__")
PACKAGE = pathlib.Path(lm.__file__).parent


def module_of(file: pathlib.Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


TREES = {module_of(file): ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")}


def imported(tree: ast.AST) -> set[str]:
    """What a file imports, inside of functions too: modules of `lm`, and the full names of all else."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module if name not in TREES and node.module in TREES else name for name in names}
    return found


def floor(module: str) -> int:
    return FLOORS.index("programs" if module in PROGRAMS else module.split(".")[1])


# `lm` itself holds the version and what is public, which is imported when it is asked for.
ARROWS = {
    module: {name for name in imported(tree) if name.startswith("lm.")}
    for module, tree in TREES.items()
    if module != "lm"
}


def test_imports_go_down_only():
    up = [f"{a} -> {b}" for a, others in ARROWS.items() for b in others if floor(b) > floor(a)]
    assert not up
    assert not [module for module, tree in TREES.items() if module != "lm" and imported(tree) & {*PROGRAMS}]


def test_no_files_import_each_other_in_a_circle():
    waiting = {module: {*others} & ARROWS.keys() for module, others in ARROWS.items()}
    while free := [module for module, others in waiting.items() if not others]:
        waiting = {module: others - {*free} for module, others in waiting.items() if module not in free}
    assert not waiting


def test_no_two_files_have_one_name():
    names = collections.Counter(file.name for file in PACKAGE.rglob("*.py") if not file.name.startswith("__"))
    assert [name for name, count in names.items() if count > 1] == []


def test_text_in_files_is_utf8_whatever_the_locale():
    """Every file of text that is opened, read or written names its encoding."""
    without = []
    for module, tree in TREES.items():
        for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            owner = getattr(getattr(call.func, "value", None), "id", "")
            modes = {each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)}
            binary = name == "open" and (owner in ("os", "tensorstore") or any("b" in mode for mode in modes))
            if name in ("open", "read_text", "write_text") and owner != "files" and not binary:
                keywords = {keyword.arg for keyword in call.keywords}
                without += [] if "encoding" in keywords else [f"{module}:{call.lineno}"]
    assert without == []


def test_only_programs_and_the_terminal_know_flags():
    knowing = {module for module, tree in TREES.items() if {"absl.flags", "absl.app"} & imported(tree)}
    assert {module for module in knowing if FLOORS[floor(module)] not in ("terminal", "programs")} == set()


def test_programs_are_thin():
    files = [PACKAGE.parent / name for name in ("train.py", "sample.py")]
    files += [PACKAGE.parent / (name.replace(".", "/") + ".py") for name in PROGRAMS]
    assert {file.name for file in files if len(file.read_text().splitlines()) > 80} == set()


def test_opening_a_run_imports_nothing_of_training(trained):
    """Neither the loop nor the libraries that it alone has a use for."""
    code = f"import sys, lm; lm.load({str(trained['buckets'])!r}); print(*sys.modules)"
    done = run_alone("-c", code)
    assert done.returncode == 0, done.stderr
    rooms = {".".join(name.split(".")[:2]) for name in done.stdout.split()}
    alone = {"optax", "grain", "tensorboard", "tensorflow_datasets", "orbax", "ftfy", "sacrebleu", "rouge_score"}
    alone.add("ml_collections")
    assert rooms & {"lm.training", "lm.evaluation", "lm.lab", *alone} == set()
    assert "lm.runs" in rooms and "tensorstore" in rooms


def test_models_training_steps_and_benchmarks_import_without_the_libraries_of_data():
    """So that a machine with an accelerator needs JAX, Flax and Optax to measure them, and no more."""
    of_data = {"corpus", "coverage", "data", "sampled", "tinyworld"}  # these measure what is read
    names = {file.stem for file in (PACKAGE.parent / "benchmarks").glob("[a-z]*.py")} - of_data
    benchmarks = [f"benchmarks.{name}" for name in sorted(names)]
    rooms = [
        "lm.recurrence",
        "lm.layers.recurrent",
        "lm.models.encoder_decoder",
        "lm.answers.text",
        "lm.training.gradient",
    ]
    blocked = ["grain", "tensorflow_datasets", "ml_collections", "sentencepiece", "sacrebleu"]
    code = f"import sys, importlib; sys.modules.update(dict.fromkeys({blocked}))\n"
    code += f"for name in {rooms + benchmarks}: importlib.import_module(name)"
    done = run_alone("-c", code)
    assert done.returncode == 0, done.stderr
