"""The exceptions that a user sees as one line: a mistake that they can correct, and a stop by a signal."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Printed as `error: WHERE: WHAT; HOW TO MEND`, and the program exits with code 2.

    Args:
        where: the file, field, flag or argument at fault, e.g. `config.model.cell` or `data.tsv:17`.
        what: what is wrong there.
        mend: what to do about it.
    """

    def __init__(self, where: str, what: str, mend: str):
        super().__init__(" ".join(f"error: {where}: {what}; {mend}".split()))
        self.where, self.what, self.mend = where, what, mend


def nearest(name: str, choices: Iterable[str]) -> str:
    """The mend for an unknown name: the nearest valid one, and all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose one of: {', '.join(choices)}"


class Stopped(BaseException):
    """A signal asked the program to end, and all is saved; the exit code is 128 + `number`.

    No `Exception`, as it may be raised anywhere, and what catches every error must let it through.
    """

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.number = number
