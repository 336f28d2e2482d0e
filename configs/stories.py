r"""A language model of TinyWorld's short stories, which other runs can start from.

    python train.py --config=configs/stories.py
    python sample.py --workdir=runs/stories --prompt='One rainy evening, Max is' --num_samples=3

Results with seed 0 on one CPU core with other load, in nats per example above the floor, which is 35.0 on validation
data and 34.7 on test data:

    training stories    epochs    validation    test
    20,000              4         2.25          2.30
    40,000 (default)    4         1.51          1.63
    80,000              5         1.03          1.11
    160,000             4         0.80          0.88

So the model gains from more steps on new stories, not from repeating the same ones. The default takes 1,868 seconds of
training; after 833 steps and 196 seconds it is at 7.95 on validation data. The last row takes 26,612 steps and 7,713
seconds:

    --config.data.train=tfds:tinyworld/stories/train=160000

Most of a story follows from much earlier text. An LSTM with 384 hidden units and without `self_attention`, on 32
streams with windows of 96 tokens, reaches only 24.7 on validation data after four epochs of 20,000 stories:

    --config.data.train=tfds:tinyworld/stories --config.model.self_attention=0 --config.model.hidden_dim=384 \
    --config.data.batch_size=32 --config.data.window=96
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/stories/train=40000",
            validation="tfds:tinyworld/stories",
            test="tfds:tinyworld/stories",
            task="lm",
            batch_size=16,
            window=192,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=448),
        ),
        model=ModelConfig(embed_dim=128, hidden_dim=256, layers=1, self_attention=192),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(
            steps="4 epochs", eval_every="0.5 epochs", checkpoint_every="0.5 epochs", log_every=100
        ),
    )
