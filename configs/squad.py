"""Questions about a paragraph (Rajpurkar et al., 2016), the answer generated.

    python train.py --config=configs/squad.py
    python train.py --config=configs/squad.py --config.data.task=extract --config.model.tied=false   # a span of the source

No score is claimed: the data set has not been downloaded where this was written. A test runs it on a tiny data set with the
same features.

Outputs are scored over all the given answers, as the official script does; training reads the first. The validation split is
the measure, as the test split is not published; validation is held out of training. Of SQuAD 2.0 (--config.data.train=tfds:squad/v2.0:train
--config.data.test=tfds:squad/v2.0:validation) a question without an answer has an empty target.
"""

from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig


def get_config() -> Config:
    return Config(
        data=DataConfig(
            train="tfds:squad:train",
            validation="",
            test="tfds:squad:validation",
            source_format="{question} {context}",
            target_format="{answers[text]}",
            task="seq2seq",
            batch_size=64,
            max_length=400,
            tokenizer=TokenizerConfig(kind="unigram", vocab_size=16000),
        ),
        model=ModelConfig(embed_dim=512, hidden_dim=512, layers=2, attention="dot", dropout=0.2, tied=True),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup=1000, final_fraction=0.02),
        training=TrainingConfig(steps="10 epochs", eval_every="0.5 epochs", checkpoint_every="0.5 epochs"),
    )
