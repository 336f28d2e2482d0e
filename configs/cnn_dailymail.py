"""Summarization of news articles: a pointer-generator with coverage (See et al., 2017, arXiv:1704.04368).

    python train.py --config=configs/cnn_dailymail.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

The targets are the highlights of CNN and Daily Mail articles. Articles longer than 800 tokens are left out of training,
but not out of evaluation.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:cnn_dailymail:train",
            validation="tfds:cnn_dailymail:validation",
            test="tfds:cnn_dailymail:test",
            source_format="{article}",
            target_format="{highlights}",
            task="seq2seq",
            cleaning=("nfc", "whitespace", "duplicates", "evaluation_overlap"),
            batch_size=32,
            max_length=800,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=32000, multiple_of=128),
        ),
        model=ModelConfig(
            embed_dim=512,
            hidden_dim=512,
            layers=2,
            attention="dot",
            copy=True,
            coverage=1.0,
            dropout=0.2,
            tied=True,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="10 epochs", eval_every="0.5 epochs", checkpoint_every="0.5 epochs"),
    )
