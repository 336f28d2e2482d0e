"""Sentiment of film reviews (Maas et al., 2011): the decoder ranks the label words by their likelihood.

    python train.py --config=configs/imdb_reviews.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

Reviews contain HTML, which a cleaning step removes. Reviews longer than 512 tokens are left out of training, but not
out of evaluation.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:imdb_reviews:train",
            validation="",
            test="tfds:imdb_reviews:test",
            source_format="{text}",
            target_format="{label}",
            task="classify",
            cleaning=("html", "whitespace", "duplicates", "evaluation_overlap"),
            batch_size=64,
            max_length=512,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=16000),
        ),
        model=ModelConfig(embed_dim=256, hidden_dim=256, layers=1, attention="dot", dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="10 epochs", eval_every="1 epoch", checkpoint_every="1 epoch"),
    )
