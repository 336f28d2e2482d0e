"""A language model of characters, measured on tiny Shakespeare, the smallest benchmark of the field.

    python train.py --config=configs/shakespeare.py --config.data.train=text:input.txt

Results with seed 0 on 2 CPU cores. The validation data is the last tenth of input.txt (1,115,394 characters), and the
time includes compilation:

    seconds of training     validation loss, nats per character
                     52     1.69
                    149     1.56
                    296     1.47 (the end)

The model is one LSTM layer with 0.72 million parameters. It trains for 4.9 epochs with 32 streams.
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
