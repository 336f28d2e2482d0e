r"""Conversations at a market stall on TinyWorld, of which the model says the seller's part.

    python train.py --config=configs/dialogue.py
    python sample.py --workdir=runs/dialogue --interactive \
      --prompt='Good morning, Anna. Today there are two eggs at 3 coins each and four pears at 1 coin each.'

One CPU core that did other work besides, seed 0, after 1,691 seconds of training: 0.88 nats an example above the floor of 0.28 on
1,000 test examples, 60.0 % of them exact.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/dialogue",
            validation="tfds:tinyworld/dialogue",
            test="tfds:tinyworld/dialogue",
            turns=("Guest: {turn}", "Seller: {turn}"),
            task="seq2seq",
            batch_size=64,
            max_length=192,
            buckets=4,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=384),
        ),
        model=ModelConfig(embed_dim=128, hidden_dim=192, layers=1, attention="dot"),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(steps="8 epochs", eval_every="1 epoch", checkpoint_every="1 epoch", log_every=100),
    )
