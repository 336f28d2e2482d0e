"""Conversations: replies to one line after another."""

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
    """Yields the lines of output for each line of input.

    If the run was trained on conversations, the model reads all turns so far, and an empty line starts a new
    conversation, which begins with the turns of `opening`. Otherwise each line is a prompt of its own.
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
