"""Tiny Shakespeare as TFDS has it, characters; `configs/shakespeare.py` reads the same text from a file of yours.

    python train.py --config=configs/tiny_shakespeare.py

No score is claimed: the data set has not been downloaded where this was written. A test runs it on a tiny data set with the
same features.

TFDS cuts it in 90, 5 and 5 per cent, so figures differ from those on the last tenth.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tiny_shakespeare:train",
            validation="tfds:tiny_shakespeare:validation",
            test="tfds:tiny_shakespeare:test",
            task="lm",
            batch_size=32,
            window=64,
            tokenizer=TokenizerConfig(kind="characters"),
        ),
        model=ModelConfig(embed_dim=64, hidden_dim=384, layers=1, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=8e-3, warmup=100, final_fraction=0.02, b2=0.99),
        training=TrainingConfig(steps=2400, eval_every=400, checkpoint_every=400, log_every=100),
    )
