"""Every contestant of ours in `benchmarks/` still runs: in small, once."""

import pytest
from support.sizes import sized

from benchmarks import head, orders, recurrence, sample, train, translate
from lm.recurrence import CELLS

# Of one-layer contestants that differ in nothing but the cell, one of each engine.
LAYERS = {
    name: make for name, make in recurrence.contestants().items() if name[3:] in ("lstm", "mlstm", "autodiff lstm")
}
CASE = {"width": 8, "batch": 2, "time": 3, "vocab": 12, "cell": "lstm"}


SLOW = {"train": train.WHOLE | train.PARTS, "recurrence": LAYERS, "sample": sample.CONTESTANTS}
FAST = {"orders": orders.CONTESTANTS, "head": head.CONTESTANTS, "translate": translate.CONTESTANTS}


@pytest.mark.parametrize(
    "table", sized((SLOW | FAST).values(), lambda table: table in FAST.values()), ids=[*SLOW, *FAST]
)
def test_every_contestant_of_ours_runs(table, monkeypatch):
    monkeypatch.setattr(recurrence, "HEADS", {})
    monkeypatch.setattr(CELLS["lstm"], "batch_major", True)  # which contestants of `orders` set
    monkeypatch.setattr(head, "SAMPLED", 4)
    for module, name in ((head, "POSITIONS"), (head, "WIDTH"), (sample, "TOKENS")):
        monkeypatch.setattr(module, name, 4)
    ours = {name: make for name, make in table.items() if name.startswith(("lm", "flax"))}
    assert ours
    for make in ours.values():
        call = make(CASE)
        call()
        call()  # where memory is donated, it was that of the first call
