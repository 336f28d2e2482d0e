"""Questions about facts on TinyWorld, the answer generated.

    python train.py --config=configs/questions.py

One CPU core, seed 0, after 1,163 seconds of training: 1.11 nats an example above the floor, which is 0; 45.7 % of 256
validation answers exact. Training loss and validation loss still fell together at the end.

A third of the training data is easy, with fewer facts: without it a model knew after 1,000 updates of 32 no more than what
kind of answer a question has (1.84 nats).
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/questions/difficulty=1 + tfds:tinyworld/questions/train=40000",
            validation="tfds:tinyworld/questions",
            test="tfds:tinyworld/questions",
            task="seq2seq",
            batch_size=64,
            buckets=2,
            tokenizer=TokenizerConfig(kind="words"),
        ),
        model=ModelConfig(embed_dim=64, hidden_dim=128, layers=2, attention="dot", copy=True),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(steps="3 epochs", eval_every="0.5 epochs", checkpoint_every="1 epoch", log_every=100),
    )
