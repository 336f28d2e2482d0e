"""Answers that are a span of the source, chosen by two pointers."""

import functools
import math
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from lm.answers import shapes
from lm.answers.alternatives import IMPOSSIBLE
from lm.answers.contract import Generation
from lm.answers.reading import Reader, Reading, choice_log_probabilities
from lm.batch import EOS
from lm.config.tasks import TASKS
from lm.data.text.spans import Spans
from lm.layers.attention import Attention
from lm.layers.dense import Dense
from lm.layers.dropout import dropout
from lm.models.encoder import Encoder, take

BEST_SPANS = 16  # among which answers are looked for


class Extractor(Reader):
    """A pointer to the first and the last position of a span of the source (Wang and Jiang, 2017, the boundary model).

    The logit of a span is the sum of two scores, each with its own query, which is read from the fixed-length vector.
    The softmax is over all spans of at most `span` positions (Lee et al., 2017, "RaSoR"). The probability of a text is
    the sum over all spans with its ids (Kadlec et al., 2016). The source's EOS alone is the span without text. The
    number of a choice is `first * span + last - first`.
    """

    span: int = 30

    def setup(self):
        super().setup()
        self.queries = Dense(2 * self.config.hidden_dim)
        self.pointer = Attention(self.config, Encoder.value_dim(self.config))

    def logits(self, source, keys_b=None):
        values_bsd, summary_bz = self.encode(source, keys_b)
        values_bsd = dropout(values_bsd.swapaxes(0, 1), self.config.dropout, keys_b, place=200).swapaxes(0, 1)
        queries_b2h = jnp.tanh(self.queries(summary_bz)).reshape(-1, 2, self.config.hidden_dim)
        scores_b2s = self.pointer.scores(queries_b2h.swapaxes(0, 1), self.pointer.keys(values_bsd))
        # The source ends with its EOS: a span that is longer than one position ends before it.
        within_bsn = self._spans(source.mask_bs)
        within_bsn &= (self._spans(source.values) != EOS) | (jnp.arange(self.span) == 0)
        logits_bsn = scores_b2s[:, 0, :, None] + self._spans(scores_b2s[:, 1])
        return jnp.where(within_bsn, logits_bsn, IMPOSSIBLE).reshape(len(source.mask_bs), -1)

    def gold(self, batch):
        fill = [(0, 0), (0, max(0, self.span - batch.targets_bt.shape[1]))]
        targets_bn = jnp.pad(batch.targets_bt, fill)[:, : self.span]
        count_b = jnp.maximum(jnp.sum(batch.weights_bt > 0, axis=1) - 1, 1)  # without its EOS, or that alone
        return self._equal(batch.source.values, targets_bn, count_b)

    def same(self, source_bs: jax.Array, choices_b: jax.Array) -> jax.Array:
        """Returns bool [b, c]: the choices of the same ids as one of them."""
        first_b, more_b = jnp.divmod(choices_b, self.span)
        return self._equal(source_bs, take(self._spans(source_bs), first_b[:, None])[:, 0], more_b + 1)

    def _equal(self, source_bs, ids_bn, count_b):
        same_bsn = jnp.cumprod(self._spans(source_bs) == ids_bn[:, None], axis=-1) > 0
        return (same_bsn & (jnp.arange(1, self.span + 1) == count_b[:, None])[:, None]).reshape(len(source_bs), -1)

    def _spans(self, each_bs):
        """[b, s, n]: what stands at each position and at those after it, 0 beyond the end."""
        padded = jnp.pad(each_bs, [(0, 0), (0, self.span - 1)])
        return padded[:, jnp.arange(each_bs.shape[1])[:, None] + jnp.arange(self.span)]


class Span(Reading):
    """A text of the source, with the probability of all spans of the same ids."""

    kind = "span"

    @classmethod
    def model_of(cls, config, tokenizer, labels):
        return Extractor(config.model, tokenizer.vocab_size, TASKS[config.data.task].source, config.data.span)

    def in_common(self):
        return *super().in_common(), self.model.span

    def described(self, options):
        return {"span": self.model.span}

    def target_ids(self, examples):
        """Returns the ids of each target; if the target is a span of its source, the ids that the source has there."""
        targets = super().target_ids(examples)
        for i, example in enumerate(examples):
            ids = self.tokenizer.encode(example.source)
            _, found = self._spans.first(example.source, ids, example.references, len(ids))
            targets[i] = found if len(found) else targets[i]
        return targets

    def unknown(self, example, target):
        return self._spans.unknown(example.target, target)

    @functools.cached_property
    def _spans(self) -> Spans:
        return Spans(self.tokenizer)

    def answer(self, params, prompts, options, beside=(), before=MappingProxyType({})):
        self.refuse_constraints(options)
        models, params = zip(*((one.model, own) for one, own in ((self, params), *beside)), strict=True)
        spans, ids = self._spans, [self.tokenizer.encode(prompt) for prompt in prompts]
        surfaces = list(map(spans.surfaces_of, prompts, ids))
        order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
        found: list[list[Generation]] = [[] for _ in prompts]
        for at in range(0, len(order), shapes.BATCH):
            chosen = order[at : at + shapes.BATCH]
            count = shapes.power_of_two(len(chosen), 1)
            source = shapes.padded_source([ids[i] for i in chosen], count, self.front_end)
            best_kb, nats_kb = jax.device_get(_best_spans(models, params, source))
            for row, i in enumerate(chosen):
                answers: dict[str, Generation] = {}
                for k in np.argsort(-nats_kb[:, row], kind="stable"):
                    first, more = divmod(int(best_kb[k, row]), self.model.span)
                    span, nats = surfaces[i][first : first + more + 1], float(nats_kb[k, row])
                    text = spans.text(span)
                    if nats > IMPOSSIBLE / 2 and text not in answers:
                        answers[text] = Generation(prompts[i], text, nats, len(span) + 1, True)
                found[i] = list(answers.values())[: options.num_samples]
        return found


@functools.partial(jax.jit, static_argnums=0)
def _best_spans(models, params, source):
    """Returns choices_kb and nats_kb: the k likeliest spans, and the log-probability of the text of each."""
    each = [choice_log_probabilities(model, own, source) for model, own in zip(models, params, strict=True)]
    nats_bc = jax.nn.logsumexp(jnp.stack(each), axis=0) - math.log(len(each))
    _, best_bk = jax.lax.top_k(nats_bc, min(BEST_SPANS, nats_bc.shape[1]))

    def text(best_b):
        same_bc = models[0].apply({"params": params[0]}, source.values, best_b, method="same")
        return jax.nn.logsumexp(jnp.where(same_bc, nats_bc, IMPOSSIBLE), axis=-1)

    return best_bk.T, jax.lax.map(text, best_bk.T)
