"""The configurations of tiny models that train in a second."""

from lm import changed
from lm.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainingConfig,
)


def tiny_config(layout: str, source: str, changes: dict[str, object] | None = None) -> Config:
    """A model that trains in a second, all that is random turned on; `changes` are by dotted path."""
    streams = layout == "streams"
    config = Config(
        data=DataConfig(
            train=source,
            test=source,
            task="lm" if streams else "seq2seq",
            batch_size=8,
            window=16,
            buckets=1,
            evaluation_streams=3,
            tokenizer=TokenizerConfig("characters") if streams else TokenizerConfig("unigram", 280),
        ),
        model=ModelConfig(
            embed_dim=8, hidden_dim=16, layers=1, attention="dot", self_attention=20 * streams, dropout=0.1
        ),
        optimizer=OptimizerConfig(learning_rate=3e-2, schedule="linear", warmup=5),
        training=TrainingConfig(steps=80, eval_every=24, checkpoint_every=18, log_every=10, eval_examples=0),
    )
    return changed(config, changes or {})
