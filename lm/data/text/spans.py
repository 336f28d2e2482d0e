"""Answers that are spans of their source: finds the span of a text, and the text of a span."""

from collections.abc import Sequence

import numpy as np

from lm.batch import UNK
from lm.data.text.tokenizers.surfaces import segmented, surfaces
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.data.text.tokenizers.unknown import Unknown


class Spans:
    """The spans of sources that one tokenizer reads."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._surfaces = tokenizer, surfaces(tokenizer)
        self._surfaces[UNK] = b"\xff"  # matches no UTF-8 text

    def surfaces_of(self, source: str, ids: np.ndarray) -> list[bytes]:
        """Returns the bytes of the normalized source that each id covers; an UNK covers the bytes that it replaces."""
        own = segmented(self._tokenizer, source)
        return own if len(own) == len(ids) else [self._surfaces[i] for i in ids.tolist()]

    def text(self, parts: list[bytes]) -> str:
        """Returns the text of a span from the bytes of its ids, stripped and without incomplete characters."""
        return b"".join(parts).decode(errors="ignore").strip()

    def unknown(self, answer: str, ids: np.ndarray) -> Unknown:
        """Returns the counts of unknown tokens in an answer; `ids` are the ids of its span in the source."""
        count, known = int(np.sum(ids == UNK)), sum(len(self._surfaces[i]) for i in ids.tolist() if i != UNK)
        size = max(0, len(answer.strip().encode()) - known) if count else 0
        return Unknown(count, size, int(self._tokenizer.alters(answer)))

    def first(self, source: str, ids: np.ndarray, answers: Sequence[str], longest: int) -> tuple[str, np.ndarray]:
        """Returns the first answer that is empty or a span of at most `longest` ids, and its ids in the source.

        If there is none, returns the first answer and no ids.
        """
        for answer in answers:
            found = self.find(source, ids, answer)
            if not answer or 0 < len(found) <= longest:
                return answer, found
        return answers[0], ids[:0]

    def find(self, source: str, ids: np.ndarray, answer: str) -> np.ndarray:
        """Returns the ids of the first span of the source whose text is the answer, apart from white space around it.

        Returns no ids if the answer is not in the source, or if it starts or ends within an id.
        """
        read = self._tokenizer.encode(answer)
        wanted = (answer if UNK in read else self._tokenizer.decode(read)).strip().encode()
        parts = self.surfaces_of(source, ids)
        text, ends = b"".join(parts), np.cumsum([len(part) for part in parts])
        at = text.find(wanted) if wanted else -1
        while at >= 0:
            first, last = np.searchsorted(ends, [at, at + len(wanted) - 1], side="right")
            if b"".join(parts[first : last + 1]).strip() == wanted:
                return ids[first : last + 1]
            at = text.find(wanted, at + 1)
        return ids[:0]
