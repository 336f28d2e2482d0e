"""Recurrence: small cells, and the engine that runs any of them at full speed.

A new cell is a class in `cells.py` (ten lines: its pointwise part) and its line here.
"""

from lm.recurrence.cells import LSTM, Elman, GatedCell
from lm.recurrence.gated import State, zero_state
from lm.recurrence.layer import RecurrentLayer

CELLS: dict[str, type[GatedCell]] = {"lstm": LSTM, "elman": Elman}

__all__ = ["CELLS", "GatedCell", "RecurrentLayer", "State", "zero_state"]
