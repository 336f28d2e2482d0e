"""Questions about facts on TinyWorld, the answer generated.

    python train.py --config=configs/questions.py

2 CPU cores that did other work, seed 0, to its end: 21.9 % of 256 validation answers exact, 1.79 nats an example above the
floor, which is 0. It fits its training data no better: as it stands it does not learn to follow the facts.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/questions",
            validation="tfds:tinyworld/questions",
            test="tfds:tinyworld/questions",
            task="seq2seq",
            batch_size=64,
            buckets=2,
            tokenizer=TokenizerConfig(kind="words"),
        ),
        model=ModelConfig(embed_dim=64, hidden_dim=128, layers=2, attention="dot"),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(steps="8 epochs", eval_every="1 epoch", checkpoint_every="1 epoch", log_every=100),
    )
