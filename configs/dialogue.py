r"""Dialogue on TinyWorld: conversations at a market stall, in which the model is the seller.

    python train.py --config=configs/dialogue.py
    python sample.py --workdir=runs/dialogue --interactive \
      --prompt='Good morning, Anna. Today there are two eggs at 3 coins each and four pears at 1 coin each.'

Result on 1,000 test examples, with seed 0, after 1,691 seconds of training on one CPU core with other load: the loss is
0.88 nats per example above the floor of 0.28, and 60.0 % of the replies are exact. The floor is the entropy of the
process that generates the replies, the lowest mean loss that any model can reach.
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
