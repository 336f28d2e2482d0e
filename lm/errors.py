"""The exceptions that a user sees as one line: a mistake that they can correct, and a stop by a signal."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct: programs print `error: WHERE: REASON; ACTION` and exit with code 2.

    Args:
        where: the file, field, flag or argument at fault, e.g. `config.model.cell` or `data.tsv:17`.
        reason: why it cannot be used.
        action: how the user can correct it.
    """

    def __init__(self, where: str, reason: str, action: str):
        super().__init__(" ".join(f"error: {where}: {reason}; {action}".split()))
        self.where, self.reason, self.action = where, reason, action

    def __reduce__(self):  # so that it comes whole from a worker process
        return type(self), (self.where, self.reason, self.action)


def nearest(name: str, choices: Iterable[str]) -> str:
    """The action for an unknown name: the nearest valid one, and all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}choose one of: {', '.join(choices)}"


class Stopped(BaseException):
    """A signal asked the program to end; the exit code is 128 + `number`.

    It is no `Exception`, as it may be raised anywhere, and code that catches every error must not catch it.

    Args:
        number: the number of the signal.
        message: the line that the user sees.
        together: whether all hosts of a run stop, as after a save.
    """

    def __init__(self, number: int, message: str, together: bool = False):
        super().__init__(message)
        self.number, self.together = number, together
