"""Replies to one line after the other."""

from collections.abc import Callable, Iterator, Sequence

from lm.runs.run import Run, generate_together
from lm.runs.transcript import Transcript
from lm.search.options import Options
from lm.terminal import output


def replies(
    runs: Sequence[Run],
    how: Options,
    shown: Transcript,
    opening: Sequence[str],
    next_line: Callable[[], str | None],
) -> Iterator[list[str]]:
    """Yields the lines that answer each line: with all that was said, where the run keeps conversations.

    There an empty line begins a new conversation, which starts with the turns of `opening`.
    """
    keeps, said = bool(runs[0].config.data.turns), [*opening]
    while (line := next_line()) is not None:
        if keeps and not line:
            said = [*opening]
            output.note("a new conversation")
            continue
        said.append(line)
        prompt = runs[0].conversation(said) if keeps else line
        (outputs,) = generate_together(runs, [prompt], how)
        said += [one.output for one in outputs[:1]]
        yield shown.lines(prompt, outputs)
