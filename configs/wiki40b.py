"""A language model of English Wikipedia articles (Guo et al., 2020).

    python train.py --config=configs/wiki40b.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

Articles keep the markers of the data set (`_START_ARTICLE_` and others), which are pieces of the vocabulary. Another
language is another config of the data set: `--config.data.train=tfds:wiki40b/de:train`, and so on.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:wiki40b/en:train",
            validation="tfds:wiki40b/en:validation",
            test="tfds:wiki40b/en:test",
            task="lm",
            batch_size=64,
            window=256,
            cleaning=("nfc", "control"),
            tokenizer=TokenizerConfig(
                kind="unigram",
                vocab_size=32000,
                multiple_of=128,
                pieces=("_START_ARTICLE_", "_START_SECTION_", "_START_PARAGRAPH_", "_NEWLINE_"),
            ),
        ),
        model=ModelConfig(embed_dim=512, hidden_dim=1024, layers=2, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="2 epochs", eval_every="0.1 epochs", checkpoint_every="0.1 epochs"),
    )
