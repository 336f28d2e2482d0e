"""Conversations with an assistant that books and looks things up (Rastogi et al., 2020, arXiv:1909.05855).

    python train.py --config=configs/schema_guided_dialogue.py
    python sample.py --workdir=runs/schema_guided_dialogue --interactive --prompt='I need a table for two in San Jose.'

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

The model is the assistant. Each of its replies is an example, with the eight turns before it as the source.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:schema_guided_dialogue:train",
            validation="tfds:schema_guided_dialogue:dev",
            test="tfds:schema_guided_dialogue:test",
            source_format="{utterances}",
            turns=("User: {turn}", "Assistant: {turn}"),
            history=8,
            task="seq2seq",
            batch_size=64,
            max_length=256,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=8000),
        ),
        model=ModelConfig(embed_dim=512, hidden_dim=512, layers=2, attention="dot", dropout=0.2, tied=True),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="5 epochs", eval_every="0.5 epochs", checkpoint_every="0.5 epochs"),
    )
