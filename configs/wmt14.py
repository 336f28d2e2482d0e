"""German to English of WMT 2014, with attention and one vocabulary for both languages.

    python train.py --config=configs/wmt14.py

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

For the other direction, exchange the two formats. Pairs are packed; pairs of very unequal length are dropped.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:wmt14_translate/de-en:train",
            validation="tfds:wmt14_translate/de-en:validation",
            test="tfds:wmt14_translate/de-en:test",
            source_format="{de}",
            target_format="{en}",
            task="seq2seq",
            layout="packed",
            cleaning=("nfc", "control", "whitespace", "words(1, 100)", "ratio(3)", "duplicates", "evaluation_overlap"),
            batch_size=64,
            window=256,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=32000, multiple_of=128),
        ),
        model=ModelConfig(embed_dim=512, hidden_dim=1024, layers=2, attention="dot", dropout=0.2),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="5 epochs", eval_every="0.2 epochs", checkpoint_every="0.2 epochs"),
    )
