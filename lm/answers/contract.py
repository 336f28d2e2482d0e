"""The contract of a kind of answer: its loss in training, the log-probability of given targets, and its outputs."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from lm.answers import shapes
from lm.answers.sampled_softmax import Candidates
from lm.batch import Batch
from lm.config import Config
from lm.config.tasks import ANSWER_KINDS
from lm.data.front_ends import FRONT_ENDS, FrontEnd
from lm.data.read.examples import Example, Examples
from lm.data.text.tokenizers.tokenizer import Tokenizer
from lm.data.text.tokenizers.unknown import Unknown, unknown_of
from lm.errors import UserError
from lm.search.options import Options


@dataclasses.dataclass(frozen=True)
class Generation:
    """One output for a prompt."""

    prompt: str
    output: str
    # Nats of the generated tokens, with EOS if it was reached, under the unmodified model or the mean of several
    # models.
    log_probability: float
    tokens: int  # generated, EOS and the tokens of a stop string counted
    ended: bool  # whether EOS or a stop string ended the text; else `max_new_tokens` did
    stop: str = ""  # the stop string that ended it, which `output` does not hold; its tokens are in `log_probability`
    satisfied: bool = True  # whether the output is as `ban`, `force` and `min_new_tokens` ask


class Score(NamedTuple):
    """The likelihood of one text under a model, from its beginning to its end (EOS included)."""

    log_probability: float  # nats; with unknown tokens, of the text with any unknown words in their place
    tokens: int
    bytes: int
    unknown_tokens: int = 0  # of the tokens
    unknown_bytes: int = 0  # bytes of the text that unknown tokens replace

    @property
    def spelled_log_probability(self) -> float:
        """The log-probability in nats with each unknown token spelled out (`lm.data.text.tokenizers.unknown`), for text
        answers.
        """
        return self.log_probability - Unknown(self.unknown_tokens, self.unknown_bytes).nats


class Noise(NamedTuple):
    """All random values of a loss."""

    keys_b: jax.Array | None = None  # a dropout key for each example; None: no dropout
    candidates: Candidates | None = None  # the ids of a sampled softmax; None: it is over the vocabulary


NO_NOISE = Noise()


class Objective(NamedTuple):
    """The terms of a training loss beside the likelihood."""

    label_smoothing: float = 0.0  # share of the target distribution that is uniform (Szegedy et al., 2016)
    z_loss: float = 0.0  # weight of the squared logarithm of the softmax's normalizer (Chowdhery et al., 2022)
    coverage: float = 0.0  # weight of the coverage loss (See et al., 2017)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model and its kind of answer. Two with equal models and objectives are equal, and share compiled programs.

    A new kind of answer is a class like this one, a line in `ANSWERS` (`answers/__init__.py`), a line in
    `ANSWER_KINDS`, and a task that names it (`config/tasks.py`).
    """

    model: nn.Module
    objective: Objective = Objective()
    tokenizer: Tokenizer | None = dataclasses.field(default=None, compare=False)
    # The labels from which an answer is chosen; () for other answers.
    labels: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    kind: ClassVar[str]  # its key in ANSWERS and ANSWER_KINDS

    # ---- making one -------------------------------------------------------------------------------------------------

    @classmethod
    def labels_of(cls, examples: Examples) -> tuple[str, ...]:
        """Returns the labels from which answers are chosen, read from the training data; () here, as nothing is
        listed.
        """
        return ()

    @classmethod
    def build(cls, config: Config, tokenizer: Tokenizer, labels: Sequence[str] = ()) -> "Answer":
        """Returns the answer of a configuration, with its model."""
        training = config.training
        objective = Objective(training.label_smoothing, training.z_loss, config.model.coverage)
        return cls(cls.model_of(config, tokenizer, labels), objective, tokenizer, tuple(labels))

    @classmethod
    def model_of(cls, config: Config, tokenizer: Tokenizer, labels: Sequence[str]) -> nn.Module:
        """Returns the Flax module.

        It has `config`, `vocab_size`, `source` (a key of INPUTS, or empty) and `has_encoder`. Its call takes input ids
        and a `Source` or None, and touches every parameter.
        """
        raise NotImplementedError

    # ---- methods of each kind ---------------------------------------------------------------------------------------

    def loss(
        self, params: Any, carry: Any, batch: Batch, noise: Noise = NO_NOISE
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        """Returns (sum of the training loss in nats, (number of real targets, state after the batch)). It is pure.

        `carry` is the decoder's state before the batch. With () each sequence starts from its initial state, and the
        returned state is ().
        """
        raise NotImplementedError

    def nats(self, params: Any, carry: Any, batch: Batch) -> tuple[jax.Array, Any]:
        """Returns (nats_bt, state after the batch): the negative log-probability of each target token, at least 0. It
        is pure.

        It contains no dropout and no smoothing, and it is 0 at positions without a target. If several tokens are one
        decision, such as a label chosen by a head, their nats are at the first position. It is infinite if an answer
        cannot be given. The metrics of an evaluation and `score` use this function; a search sums the same quantity
        over the tokens that it writes.
        """
        raise NotImplementedError

    def answer(
        self,
        params: Any,
        prompts: Sequence[str],
        options: Options,
        beside: Sequence[tuple["Answer", Any]] = (),
        before: Mapping[str, int] = MappingProxyType({}),
    ) -> list[list[Generation]]:
        """Returns at most `options.num_samples` outputs for each prompt; if they are ranked, the best is first.

        The outputs for a prompt depend on the prompt, the seed and, for a repeated prompt, the number of the
        repetition. They do not depend on the other prompts.

        Args:
            params: the parameters.
            prompts: the prompts.
            options: the options of decoding.
            beside: further answers with their parameters; probabilities are then the mean over all of them.
            before: how often each prompt was given in earlier calls, if one list of prompts is answered in several
                calls.
        """
        raise NotImplementedError

    def refuse_constraints(self, options: Options) -> None:
        """Raises `UserError` for options that only apply to written text, if the answer is chosen."""
        for name in ("ban", "force", "stop", "min_new_tokens", "no_repeat_ngram"):
            if getattr(options, name):
                raise UserError(f"--{name}", f"the model {ANSWER_KINDS[self.kind].how}", "leave it out")

    # ---- methods that all kinds share -------------------------------------------------------------------------------

    @property
    def among(self) -> str:
        """The set over which probabilities sum to one: texts, labels or spans."""
        return ANSWER_KINDS[self.kind].among

    @property
    def front_end(self) -> FrontEnd | None:
        """The host's half of the model's input; None for a language model."""
        return FRONT_ENDS.get(self.model.source)

    def in_common(self) -> tuple:
        """Returns the properties that must be equal for answers to decode together."""
        return self.tokenizer.fingerprint, self.model.source, self.among, self.labels

    def described(self, options: Options) -> dict[str, Any]:
        """Returns how outputs were chosen, for the record of an evaluation."""
        return {"labels": list(self.labels)} if self.labels else dataclasses.asdict(options)

    def first_carry(self, rows: int) -> Any:
        """Returns the state before a first batch: here there is none."""
        return ()

    def target_ids(self, examples: Sequence[Example]) -> list[np.ndarray]:
        """Returns the ids of each target, without EOS."""
        return self.tokenizer.encode_batch([example.target for example in examples])

    @property
    def tells_apart(self) -> bool:
        """Whether no two answers have the same ids, so that unknown tokens lose nothing."""
        return False

    def unknown(self, example: Example, target: np.ndarray) -> Unknown:
        """Returns the unknown tokens of an example whose target has these ids."""
        return Unknown() if self.tells_apart else unknown_of(self.tokenizer, example.target, target)

    def source_values(self, sources: Sequence[str]) -> list[np.ndarray]:
        """Returns the values of each source, as evaluation data has them."""
        return self.front_end.encode(sources, self.tokenizer, self.tokenizer.encode_batch)

    def score(self, params: Any, examples: Sequence[Example]) -> list[Score]:
        """Returns the log-probability of each example's target (given its source), from a fresh state."""
        targets = self.target_ids(examples)
        sources = self.source_values([example.source for example in examples]) if self.front_end else None
        order = sorted(range(len(examples)), key=lambda i: len(targets[i]))
        results: list[Any] = [None] * len(examples)
        for chosen in shapes.batches(order, [len(target) + 1 for target in targets], in_windows=sources is None):
            batch = shapes.batch_of(
                [targets[i] for i in chosen], sources and [sources[i] for i in chosen], self.front_end
            )
            nats_b = self._nats_of_rows(params, batch)
            for row, i in enumerate(chosen):
                lost = self.unknown(examples[i], targets[i])
                size = len(examples[i].target.encode())
                results[i] = Score(-float(nats_b[row]), len(targets[i]) + 1, size, lost.tokens, lost.bytes)
        return results

    def _nats_of_rows(self, params: Any, batch: Batch) -> np.ndarray:
        """Returns float64 [b], the sum over each sequence. A text without a source may be long, so it is read window by
        window.
        """
        nats_b, carry = np.zeros(len(batch.targets_bt)), self.first_carry(len(batch.targets_bt))
        length = batch.targets_bt.shape[1]
        size = length if batch.source else shapes.WINDOW
        for begin in range(0, length, size):
            over_time = (batch.inputs_bt, batch.targets_bt, batch.weights_bt, batch.resets_bt)
            inputs, targets, weights, resets = (x[:, begin : begin + size] for x in over_time)
            window = batch._replace(inputs_bt=inputs, targets_bt=targets, weights_bt=weights, resets_bt=resets)
            nats_bt, carry = nats_of(self, params, carry, window)
            nats_b += np.asarray(nats_bt, np.float64).sum(axis=1)
        return nats_b


@functools.partial(jax.jit, static_argnums=0)
def nats_of(answer: Answer, params: Any, carry: Any, batch: Batch) -> tuple[jax.Array, Any]:
    """Computes `Answer.nats` as one program."""
    return answer.nats(params, carry, batch)
