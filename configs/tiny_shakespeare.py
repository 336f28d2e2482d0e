"""A language model of characters on tiny Shakespeare in the version of TFDS.

    python train.py --config=configs/tiny_shakespeare.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

TFDS splits the text into 90, 5 and 5 per cent, so scores differ from those on its last tenth. `configs/shakespeare.py`
reads the same text from your own file.
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
