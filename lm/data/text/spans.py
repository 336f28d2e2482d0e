"""Where an answer stands in its source: a text as a span of the source's ids, and a span as a text."""

from collections.abc import Sequence

import numpy as np

from lm.batch import UNK
from lm.data.text.tokenizers.surfaces import segmented, surfaces
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.data.text.tokenizers.unknown import Unknown


class Spans:
    """Of the sources that a tokenizer reads."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self._surfaces = tokenizer, surfaces(tokenizer)
        self._surfaces[UNK] = b"\xff"  # of no text

    def surfaces_of(self, source: str, ids: np.ndarray) -> list[bytes]:
        """What each id stands for, of the source as the tokenizer normalises it; of unknown ones what is there."""
        own = segmented(self._tokenizer, source)
        return own if len(own) == len(ids) else [self._surfaces[i] for i in ids.tolist()]

    def text(self, parts: list[bytes]) -> str:
        """Of the parts of a span, without the white space around it; of a character's bytes, only if all are there."""
        return b"".join(parts).decode(errors="ignore").strip()

    def unknown(self, answer: str, ids: np.ndarray) -> Unknown:
        """The unknown tokens of an answer, whose ids are its source's."""
        count, known = int(np.sum(ids == UNK)), sum(len(self._surfaces[i]) for i in ids.tolist() if i != UNK)
        size = max(0, len(answer.strip().encode()) - known) if count else 0
        return Unknown(count, size, int(self._tokenizer.alters(answer)))

    def first(self, source: str, ids: np.ndarray, answers: Sequence[str], longest: int) -> tuple[str, np.ndarray]:
        """(answer, the source's own ids of it): of the first answer that is a span of at most so many ids, or is empty. Of no
        ids where none is."""
        for answer in answers:
            found = self.find(source, ids, answer)
            if not answer or 0 < len(found) <= longest:
                return answer, found
        return answers[0], ids[:0]

    def find(self, source: str, ids: np.ndarray, answer: str) -> np.ndarray:
        """The source's own ids of the answer: where they first hold its text and nothing else, but for white space around
        it. Of no ids where they never do: the answer is not there, or its ends are within ids."""
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
