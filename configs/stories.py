"""A language model of TinyWorld's short stories: text generation, and a language model to start others from.

    python train.py --config=configs/stories.py
    python sample.py --workdir=runs/stories --prompt='One rainy evening, Max is' --num_samples=3

No score is claimed.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/stories",
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
