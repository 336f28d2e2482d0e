"""Recurrence: small cells, and the engines that run any of them at full speed.

A new gated cell is a class in `gated/cells.py` with its pointwise equation, about ten lines. A new linear cell is a
class in `linear.py`. Each also needs its line in `CELLS`.
"""

from lm.recurrence.base import BACKWARD, DRIVERS, Cell, Execution, State, Weights
from lm.recurrence.gated.cells import GRU, LSTM, SLSTM, Elman, LayerNormLSTM, PeepholeLSTM
from lm.recurrence.gated.engine import GatedCell
from lm.recurrence.linear import RGLRU, LinearCell, MinGRU, MinLSTM
from lm.recurrence.matrix import MLSTM

CELLS: dict[str, type[Cell]] = {
    "lstm": LSTM,
    "gru": GRU,
    "elman": Elman,
    "peephole": PeepholeLSTM,
    "layernorm": LayerNormLSTM,
    "slstm": SLSTM,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "rglru": RGLRU,
    "mlstm": MLSTM,
}

__all__ = ["BACKWARD", "CELLS", "Cell", "GatedCell", "LinearCell", "Execution", "DRIVERS", "State", "Weights"]
