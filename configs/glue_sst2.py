"""Sentiment of sentences from film reviews: SST-2 (Socher et al., 2013) in the version of GLUE.

    python train.py --config=configs/glue_sst2.py
    python train.py --config=configs/glue_sst2.py --config.model.pool=mean   # a head on the pooled encoder

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

GLUE does not publish the labels of its test split. So its validation split is the test split here, and validation data
is held out of the training split.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:glue/sst2:train",
            validation="",
            test="tfds:glue/sst2:validation",
            source_format="{sentence}",
            target_format="{label}",
            task="classify",
            cleaning=("duplicates", "evaluation_overlap"),
            batch_size=128,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=8000),
        ),
        model=ModelConfig(embed_dim=256, hidden_dim=256, layers=1, attention="dot", dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="5 epochs", eval_every="0.5 epochs", checkpoint_every="0.5 epochs"),
    )
