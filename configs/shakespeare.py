"""A language model of characters; tiny Shakespeare, the field's smallest benchmark, is its measure.

    python train.py --config=configs/shakespeare.py --config.data.train=text:input.txt

2 CPU cores, seed 0, the last tenth of input.txt (1,115,394 characters) for validation, nats a character: 1.69 after 52
seconds of training, compilation included, 1.56 after 149, 1.47 at the end, after 296.

0.72 million parameters: one LSTM layer. 4.9 epochs of 32 streams.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="text:input.txt",
            task="lm",
            batch_size=32,
            window=64,
            tokenizer=TokenizerConfig(kind="characters"),
        ),
        model=ModelConfig(embed_dim=64, hidden_dim=384, layers=1, dropout=0.1),
        optimizer=OptimizerConfig(learning_rate=8e-3, warmup=100, final_fraction=0.02, b2=0.99),
        training=TrainingConfig(steps=2400, eval_every=400, checkpoint_every=400, log_every=100),
    )
