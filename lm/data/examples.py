"""An example: what one record of any source becomes, before tokens."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    source: str | None  # what the encoder reads; None for plain text
    target: str  # the text, or what the decoder must write
    log_prob: float | None = None  # nats, exact log-probability of target (given source) where the data knows it
    continued: bool = False  # this text goes on where the example before it ended: a long document, piece by piece

    @property
    def content(self) -> bytes:
        """Its strings, ended by bytes that no UTF-8 text holds, so that no two examples share a content."""
        source = b"\xfe" if self.source is None else self.source.encode()
        return source + b"\xff" + self.target.encode() + b"\xff"


def blank(text: str) -> bool:
    """Whether there is nothing but white space."""
    return not text or text.isspace()
