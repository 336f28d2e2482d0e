"""Draft."""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="parallel:train.de,train.en",
            validation="parallel:validation.de,validation.en",
            test="parallel:test2016.de,test2016.en",
            task="seq2seq",
            batch_size=64,
            max_length=64,
            buckets=3,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=5000),
        ),
        model=ModelConfig(embed_dim=256, hidden_dim=256, layers=1, attention="dot", dropout=0.2, tied=True),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup="1 epoch", final_fraction=0.02, weight_decay=0.01),
        training=TrainingConfig(
            steps="10 epochs",
            eval_every="1 epoch",
            checkpoint_every="1 epoch",
            label_smoothing=0.1,
        ),
    )
