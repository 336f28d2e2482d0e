r"""An encoder-decoder that is pretrained on TinyWorld's stories: it restores spans that were removed from them.

    python train.py --config=configs/pretrain.py
    python train.py --config=configs/tinyworld.py --workdir=runs/tuned --config.training.init_from=runs/pretrain \
      --config.model.embed_dim=192 --config.model.hidden_dim=192 --config.model.tied=true

A run that starts from it needs a model of the same dimensions, as in the second command.
`configs/pipelines/tinyworld.py` pretrains on the texts of all tasks.
"""

from lm.config import Config, DataConfig, ModelConfig, NoiseConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:tinyworld/stories",
            validation="tfds:tinyworld/stories",
            test="tfds:tinyworld/stories",
            task="denoise",
            batch_size=64,
            buckets=4,
            noise=NoiseConfig(rate=0.5, mean_span=8),
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=448),
        ),
        model=ModelConfig(embed_dim=192, hidden_dim=192, layers=1, attention="dot", tied=True),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, final_fraction=0.02),
        training=TrainingConfig(steps="8 epochs", eval_every="1 epoch", checkpoint_every="1 epoch", log_every=100),
    )
