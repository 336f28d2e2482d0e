import json
import os

import pytest
from etils import epath
from PIL import Image

from lm.errors import UserError
from lm.runs import curve

EVALUATION = {"step": 4, "split": "validation", "loss": 2.0, "nats_per_example": 20.0, "floor_nats_per_example": 5.0}
TRAINING = [{"step": step, "split": "train", "loss": 8.0 / step} for step in (1, 2, 3, 4)]
PRINTED = {"tokens_per_second": 1.0, "learning_rate": 1.0, "grad_norm": 1.0, "perplexity": 1.0, "bits_per_byte": 1.0}


def written(folder, records) -> epath.Path:
    folder.mkdir()
    lines = [json.dumps(PRINTED | record) + "\n" for record in records]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    return epath.Path(folder)


def test_a_finished_run_has_its_learning_curve(trained):
    for workdir in trained.values():
        with Image.open(workdir / "curve.png") as image:
            assert image.size == (960, 540) and len(image.getcolors(2**16)) > 2


def test_the_floor_of_a_curve_is_in_nats_per_token():
    """2 nats per token and 20 per example: 10 tokens per example, so that 5 nats per example are 0.5 per token."""
    assert curve.floor_per_token(EVALUATION) == 0.5
    assert curve.floor_per_token({"loss": 2.0}) is None
    assert curve.floor_per_token(EVALUATION | {"nats_per_example": None}) is None


@pytest.mark.parametrize("name", ["run", "a$b_{", "运行", os.fsdecode(b"\xff")])
def test_a_curve_is_a_function_of_the_metrics_whatever_the_name(name, tmp_path):
    workdir = written(tmp_path / name, [*TRAINING, EVALUATION])
    drawn = curve.write(workdir).read_bytes()
    assert drawn.startswith(b"\x89PNG") and curve.write(workdir).read_bytes() == drawn
    other = written(tmp_path / f"{name}2", [*TRAINING, EVALUATION | {"floor_nats_per_example": 0.01}])
    assert curve.write(other).read_bytes() != drawn


def test_a_run_without_any_loss_has_no_curve(tmp_path):
    assert curve.write(written(tmp_path / "run", [EVALUATION | {"loss": None}])) is None
    assert not (tmp_path / "run" / "curve.png").exists()


def test_a_curve_is_not_written_through_a_link_out_of_the_run(tmp_path):
    workdir = written(tmp_path / "run", TRAINING)
    os.symlink(tmp_path / "elsewhere.png", workdir / "curve.png")
    with pytest.raises(UserError, match="link"):
        curve.write(workdir)
    assert not (tmp_path / "elsewhere.png").exists()
