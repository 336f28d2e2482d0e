"""SentencePiece tokenizers, with unigram or byte-pair pieces."""

import bisect
import dataclasses
import functools
import heapq
import itertools
import math
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import sentencepiece

from lm.batch import BOS, EOS, PAD, UNK
from lm.data.text.tokenizers.tokenizer import SPACE, SPECIALS, UNKNOWN, Tokenizer, around, one_of


@dataclasses.dataclass(frozen=True, eq=False)
class SentencePiece(Tokenizer):
    """A SentencePiece model. Its pieces keep their order, and its special ids become the first four ids."""

    kind: str
    model: bytes = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        """Loads the model; raises `RuntimeError` if its bytes are not a SentencePiece model."""
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(self.model)
        specials = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
        theirs = [*specials, *(i for i in range(processor.get_piece_size()) if i not in specials)]
        ours = np.full(processor.get_piece_size(), UNK, np.int32)
        for our, their in enumerate(theirs):
            if their >= 0:
                ours[their] = our
        self.__dict__.update(
            _processor=processor,
            _theirs=np.array(theirs),  # SentencePiece's id by our id; -1 for a special id that the model lacks
            _ours=ours,  # our id by SentencePiece's id
            _names=[*SPECIALS, *(processor.id_to_piece(i) for i in theirs[len(SPECIALS) :])],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SentencePiece) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def own_size(self) -> int:
        return len(self._theirs)

    @property
    def _uncut(self) -> frozenset[str]:
        return super()._uncut | self._own

    @functools.cached_property
    def _added_ids(self) -> dict[str, list[int]]:
        # Includes the pieces of its training, or an added piece would split a longer one of them.
        made_with = {piece: [self._ids[piece]] for piece in self._own} if self.added else {}
        return made_with | super()._added_ids

    def _encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        check_unicode(texts)
        if self.kind == "sentencepiece":
            return self._encode_parts(texts)
        return around(texts, self._sign, self._encode_parts)

    @functools.cached_property
    def _sign(self) -> dict[str, list[int]]:
        """The bytes of SentencePiece's sign for a space, as the sign in a text would be decoded to a space."""
        return {SPACE: self._bytes_of(SPACE)}

    def _sample_batch(self, texts: list[str], alpha: float, seed: int) -> list[np.ndarray]:
        # SentencePiece's own sampling does not depend on the seed alone: Abseil salts its generator in each process.
        if self.kind == "sentencepiece":
            return super()._sample_batch(texts, alpha, seed)
        check_unicode(texts)
        draw = random.Random(seed).random
        cut = self._cut_unigram(alpha, draw) if self.kind == "unigram" else self._cut_bpe(alpha, draw)
        own = one_of(self._own) if self._own else None

        def sample(part: str) -> np.ndarray:
            ids, part = [], self._normalized(part).replace(" ", SPACE)
            for number, span in enumerate(own.split(part) if own else [part]):
                if number % 2:
                    ids.append(self._ids[span])
                else:
                    for word in re.findall(f"{SPACE}?[^{SPACE}]+|{SPACE}", span):
                        ids += cut(word)
            return np.array(ids, np.int32)

        return around(texts, self._sign, lambda parts: list(map(sample, parts)))

    def _encode_parts(self, parts: list[str]) -> list[np.ndarray]:
        if self._normalizes:
            parts = list(map(self._normalized, parts))
        threads = 2 if len(parts) > 1 else 1
        return [self._ours[ids] for ids in self._processor.encode(parts, out_type="numpy", num_threads=threads)]

    def _normalized(self, part: str) -> str:
        """Returns the normalized text.

        Repeats until nothing changes: SentencePiece splits a ligature, and joins a mark to its last letter only then.
        """
        while (once := self._processor.normalize(part).replace(SPACE, " ")) != part:
            part = once
        return part

    # Sampling segments one word at a time, with the space before it: no trained piece extends over a space.

    def _cut_unigram(self, alpha: float, draw: Callable[[], float]) -> Callable[[str], list[int]]:
        """Returns a function that samples a segmentation of a word, by forward filtering and backward sampling."""
        scores, longest = self._scores, max(map(len, self._scores), default=1)
        unknown = min(scores.values(), default=0.0) - 10  # SentencePiece's own penalty

        @functools.lru_cache(1 << 15)
        def choices(word: str) -> list[tuple[list[int], list[float]]]:
            """Returns for each end position the starts of the last piece, and their cumulative probabilities."""
            total, table = [0.0], [([], [])]
            for end in range(1, len(word) + 1):
                starts, logs = [], []
                for start in range(max(0, end - longest), end):
                    score = scores.get(word[start:end], unknown if start == end - 1 else None)
                    if score is not None:
                        starts.append(start)
                        logs.append(total[start] + alpha * score)
                top = max(logs)
                sums = list(itertools.accumulate(math.exp(log - top) for log in logs))
                total.append(top + math.log(sums[-1]))
                table.append((starts, [part / sums[-1] for part in sums]))
            return table

        def cut(word: str) -> list[int]:
            table, end, found = choices(word), len(word), []
            while end:
                starts, shares = table[end]
                start = starts[bisect.bisect_right(shares, draw()) if len(starts) > 1 else 0]
                found.append(word[start:end])
                end = start
            return [i for piece in reversed(found) for i in self._ids_of(piece)]

        return cut

    def _cut_bpe(self, alpha: float, draw: Callable[[], float]) -> Callable[[str], list[int]]:
        """Returns a function that segments a word by BPE with dropout.

        Merges are made in the order of their scores, from the left. A merge that was dropped is possible again only
        after a neighbor has grown.
        """
        scores = self._scores

        def cut(word: str) -> list[int]:
            parts = list(word)
            after, before = list(range(1, len(parts) + 1)), list(range(-1, len(parts) - 1))
            agenda = []

            def propose(left: int, right: int) -> None:
                if left >= 0 and right < len(parts) and (score := scores.get(parts[left] + parts[right])) is not None:
                    heapq.heappush(agenda, (-score, left, right, len(parts[left]) + len(parts[right])))

            for left in range(len(parts) - 1):
                propose(left, left + 1)
            while agenda:
                _, left, right, size = heapq.heappop(agenda)
                if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != size:
                    continue  # one of the two is a part of another piece by now
                if alpha and draw() < alpha:
                    continue
                parts[left] += parts[right]
                parts[right] = ""
                after[left] = after[right]
                if after[left] < len(parts):
                    before[after[left]] = left
                propose(before[left], left)
                propose(left, after[left])
            return [i for piece in parts if piece for i in self._ids_of(piece)]

        return cut

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: i for i, piece in enumerate(self._names)}

    @functools.cached_property
    def _scores(self) -> dict[str, float]:
        """The scores of ordinary pieces: not special, not bytes, and not defined by the user."""
        processor = self._processor
        known = (i for i in map(int, self._theirs[len(SPECIALS) :]) if not processor.is_byte(i))
        scores = {processor.id_to_piece(i): processor.get_score(i) for i in known}
        return {piece: score for piece, score in scores.items() if piece not in self._own}

    @functools.cached_property
    def _own(self) -> frozenset[str]:
        """The pieces that the user defined."""
        return frozenset(piece.piece for piece in self._parts.pieces if piece.type == piece.USER_DEFINED)

    @functools.cached_property
    def _normalizes(self) -> bool:
        """Whether this class normalizes; a model from elsewhere normalizes by itself."""
        return self.kind != "sentencepiece" and self._parts.normalizer_spec.name != "identity"

    @property
    def _parts(self) -> Any:
        """The model as a protocol buffer."""
        # Imported late, as few uses of a tokenizer need it, and opening a run should be fast.
        from sentencepiece.sentencepiece_model_pb2 import ModelProto

        return ModelProto.FromString(self.model)

    def _ids_of(self, piece: str) -> list[int]:
        i = self._ids.get(piece)
        return [i] if i is not None else self._bytes_of(piece)

    def _bytes_of(self, text: str) -> list[int]:
        return [self._ids[f"<0x{byte:02X}>"] for byte in text.encode()]

    def alters(self, text: str) -> bool:
        if self.kind != "sentencepiece":
            return self._normalizes and self.decode(self.encode(text)) != text
        model = self._processor
        return any(model.decode_pieces(model.encode(part, out_type=str)) != part for part in self._between_added(text))

    def _unknown_bytes(self, text: str) -> int:
        pieces = self._processor.encode(text, out_type="proto").pieces
        return sum(piece.end - piece.begin for piece in pieces if self._ours[piece.id] == UNK)

    def _content(self) -> bytes:
        return self.model

    def _decode(self, ids: list[int]) -> str:
        ids = [i for i in ids if i not in (PAD, BOS, EOS)]
        if UNK not in ids:
            return self._processor.decode([int(i) for i in self._theirs[ids]])
        return self._processor.decode_pieces([UNKNOWN if i == UNK else self._names[i] for i in ids])

    def _piece(self, i: int) -> str:
        return self._names[i]


def check_unicode(texts: list[str]) -> None:
    for text in texts:
        text.encode()  # raises a `UnicodeEncodeError`, which is clearer than the error of SentencePiece
