"""The options of decoding and their rules. Imports no JAX, so that `--help` answers at once."""

import dataclasses
import numbers
from typing import Any

from lm import files
from lm.errors import UserError

MOST_CHARACTERS = 10**5  # of all banned, all forced or all stop strings


def _option(default: Any, text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of decoding. Tokens and strings are those of the output. Raises `UserError` with the name of an
    option.

    `length_penalty` a divides the log-probability of n tokens, the end counted, by ((5 + n) / 6)^a, after Wu et al.
    (2016). Hugging Face divides by n^a, so the same a ranks differently. `repetition_penalty` is that of Keskar et al.
    (2019), applied to the output alone; in Hugging Face a decoder's prompt counts as well.
    """

    num_samples: int = _option(1, "outputs for each prompt; with a beam, its n best")
    max_new_tokens: int = _option(
        0, "most tokens of an output; 0: 256 for a language model, else twice the source and 32 more"
    )
    min_new_tokens: int = _option(0, "tokens before the text may end")
    temperature: float = _option(1.0, "logits are divided by it; 0 is greedy")
    top_k: int = _option(0, "draw among the k most probable tokens; 0: all")
    top_p: float = _option(1.0, "draw among the fewest tokens whose probabilities reach p; 1: all")
    min_p: float = _option(0.0, "draw among tokens that are at least this many times as probable as the best; 0: all")
    typical_p: float = _option(
        1.0, "draw among the fewest tokens that reach probability p, those of typical surprise first; 1: all"
    )
    repetition_penalty: float = _option(
        1.0, "divides the positive logits of generated tokens and multiplies the negative ones; 1: none"
    )
    no_repeat_ngram: int = _option(0, "n: no sequence of n tokens appears twice in an output; 0: no limit")
    ban: tuple[str, ...] = _option((), "a string that no output contains; may be repeated")
    force: tuple[str, ...] = _option((), "beam: a string that every output contains; may be repeated")
    stop: tuple[str, ...] = _option((), "a string before which an output ends; may be repeated")
    beam_size: int = _option(0, "beam search with this many beams; 0: none")
    length_penalty: float = _option(
        0.0,
        "a: a beam's log-probability is divided by ((5 + n) / 6)^a for n tokens (Wu et al., 2016), not by n^a as in "
        "Hugging Face; 0: ranked by log-probability",
    )
    coverage_penalty: float = _option(
        0.0, "beam, with attention: weight of the penalty for source positions with a total attention below 1"
    )
    beam_groups: int = _option(1, "diverse beam search: groups that share the beam")
    diversity_penalty: float = _option(0.0, "cost of a token in nats for each earlier group that chose it at this step")
    mbr_samples: int = _option(
        0, "draw this many outputs and print the one most similar to all (minimum Bayes risk by chrF); 0: none"
    )
    seed: int = _option(0, "seed of the draws; the same seed and prompt give the same text")

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name), field.default))

        def check(ok: bool, name: str, action: str) -> None:
            if not ok:
                raise UserError(f"--{name}", f"{getattr(self, name)!r} is out of range", action)

        check(1 <= self.num_samples <= 10**5, "num_samples", "give 1 to 100000")
        check(0 <= self.max_new_tokens <= 10**6, "max_new_tokens", "give 1 to 1000000, or 0 for the default")
        check(0 <= self.min_new_tokens <= 10**6, "min_new_tokens", "give 0 to 1000000")
        check(0 <= self.temperature < float("inf"), "temperature", "give at least 0, which is greedy")
        check(0 <= self.top_k < 2**31, "top_k", "give at least 1, or 0 for no limit")
        check(0 < self.top_p <= 1, "top_p", "give more than 0 and at most 1, which is no limit")
        check(0 <= self.min_p <= 1, "min_p", "give 0, which is no limit, to 1")
        check(0 < self.typical_p <= 1, "typical_p", "give more than 0 and at most 1, which is no limit")
        check(0 < self.repetition_penalty <= 1e6, "repetition_penalty", "give more than 0; 1 is none")
        check(0 <= self.no_repeat_ngram <= 10**6, "no_repeat_ngram", "give at least 1, or 0 for none")
        for name in ("ban", "force", "stop"):
            check(all(getattr(self, name)), name, "give strings that are not empty")
            if sum(map(len, getattr(self, name))) > MOST_CHARACTERS:
                raise UserError(f"--{name}", f"holds more than {MOST_CHARACTERS:,} characters in all", "give fewer")
        for name, other, reason in (
            ("force", "ban", "bans"),
            ("force", "stop", "ends the output before"),
            ("stop", "ban", "bans, so it never comes"),
        ):
            for text in getattr(self, name):
                if any(each in text for each in getattr(self, other)):
                    raise UserError(f"--{name}", f"{text!r} holds what --{other} {reason}", "leave one of them out")
        check(0 <= self.beam_size <= 10**4, "beam_size", "give 1 to 10000, or 0 for none")
        check(0 <= self.length_penalty < float("inf"), "length_penalty", "give at least 0")
        check(0 <= self.coverage_penalty < float("inf"), "coverage_penalty", "give at least 0")
        check(self.beam_groups >= 1, "beam_groups", "give at least 1")
        check(0 <= self.diversity_penalty < float("inf"), "diversity_penalty", "give at least 0")
        check(0 <= self.mbr_samples <= 10**4, "mbr_samples", "give at least 2, or 0 for none")
        check(0 <= self.seed < 2**32, "seed", "give 0 to 4294967295")
        for name in ("length_penalty", "coverage_penalty", "force"):
            if getattr(self, name) and not self.beam_size:
                raise UserError(f"--{name}", "is for beam search", "give --beam_size")
        if self.repetition_penalty != 1 and self.beam_size:
            reason = "is for drawing: a beam's scores are the model's own"
            raise UserError("--repetition_penalty", reason, "give --no_repeat_ngram, or no --beam_size")
        if self.max_new_tokens and self.min_new_tokens >= self.max_new_tokens:
            reason = f"{self.min_new_tokens} tokens and an end are more than --max_new_tokens={self.max_new_tokens}"
            raise UserError("--min_new_tokens", reason, "lower it")
        if (self.beam_groups > 1 or self.diversity_penalty) and (
            self.beam_groups == 1 or not self.beam_size or self.beam_size % self.beam_groups
        ):
            reason = f"{self.beam_groups} do not divide a beam of {self.beam_size} into groups"
            raise UserError("--beam_groups", reason, "give at least 2, and a multiple of it as --beam_size")
        if self.force and self.beam_groups > 1:
            raise UserError("--force", "has beams of its own", "leave out --beam_groups")
        if self.mbr_samples and (self.beam_size or self.temperature == 0):
            raise UserError("--mbr_samples", "is of samples that are drawn", "leave out --beam_size, --greedy")
        if self.num_samples > 1 and not self.beam_size and self.temperature == 0:
            raise UserError("--num_samples", "greedy decoding has one output", "give --temperature or --beam_size")
        if self.beam_size and self.num_samples > self.beam_size:
            reason = f"a beam of {self.beam_size} has no {self.num_samples} best"
            raise UserError("--num_samples", reason, "raise --beam_size")
        if self.mbr_samples and self.num_samples > self.mbr_samples:
            reason = f"{self.mbr_samples} samples have no {self.num_samples} best"
            raise UserError("--num_samples", reason, "raise --mbr_samples")

    @property
    def constrains(self) -> bool:
        """Whether there are constraints that an output may fail to meet (`Generation.satisfied`)."""
        return bool(self.ban or self.force or self.min_new_tokens)


def _typed(name: str, value: Any, default: Any) -> Any:
    """Returns the value of an option in the type of its default; one string counts as a tuple of one."""
    if isinstance(default, tuple):
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, (tuple, list)) or not all(isinstance(text, str) for text in value):
            raise UserError(f"--{name}", f"{value!r} is no text and no list of texts", 'give e.g. ("the end",)')
        if not all(map(files.encodable, value)):
            raise UserError(f"--{name}", "is not UTF-8", "give text")
        return tuple(value)
    kind, article = (numbers.Integral, "whole number") if isinstance(default, int) else (numbers.Real, "number")
    if isinstance(value, bool) or not isinstance(value, kind):
        raise UserError(f"--{name}", f"{value!r} is no {article}", f"give e.g. {default}")
    try:
        return type(default)(value)
    except OverflowError:  # as a float it is
        return float("inf")


NAMES = tuple(field.name for field in dataclasses.fields(Options))
