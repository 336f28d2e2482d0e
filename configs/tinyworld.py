"""English to Chinese on TinyWorld, the embedded data: the default, and the first thing to run.

    python train.py

2 shared CPU cores, seed 0: after 158 seconds of training 95.2 % of the 1,000 validation sentences are translated exactly by
greedy decoding (`python -m lm.evaluate --workdir=runs/tinyworld --split=validation`), and the loss is 0.21 nats an
example above the floor.

0.77 million parameters: a bidirectional LSTM encoder and an LSTM decoder with dot attention, one layer each. Three epochs of
30,000 pairs. About 3 % of the references are a less usual variant, chosen at random, that no model can foresee: exact match
cannot go much above 97 %.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/translate",
            validation="tfds:tinyworld/translate",
            test="tfds:tinyworld/translate",
            task="seq2seq",
            batch_size=64,
            buckets=2,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=900),
        ),
        model=ModelConfig(embed_dim=128, hidden_dim=128, layers=1, attention="dot"),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(
            steps="3 epochs",
            eval_every="0.5 epochs",
            checkpoint_every="0.5 epochs",
            log_every=100,
        ),
    )
