"""A language model of the One Billion Word benchmark (Chelba et al., 2013, arXiv:1312.3005).

    python train.py --config=configs/lm1b.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

The test split is the held-out data of the benchmark. Validation data is a twentieth of the training sentences, chosen
by hash. Each sentence stands alone, so sentences are packed, several per sequence, and the state is reset between them.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:lm1b:train",
            validation="",
            test="tfds:lm1b:test",
            task="lm",
            layout="packed",
            batch_size=128,
            window=256,
            cleaning=("duplicates", "evaluation_overlap"),
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=32000, multiple_of=128),
        ),
        model=ModelConfig(embed_dim=512, hidden_dim=1024, layers=2, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="3 epochs", eval_every="0.1 epochs", checkpoint_every="0.1 epochs"),
    )
