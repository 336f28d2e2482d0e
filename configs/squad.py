"""Questions about a paragraph: SQuAD (Rajpurkar et al., 2016); the answer is generated.

    python train.py --config=configs/squad.py
    python train.py --config=configs/squad.py --config.data.task=extract --config.model.tied=false   # answers are spans

No score is claimed: this config has not been trained on the real data set. A test runs it on a tiny data set with the
same features.

Outputs are scored against all given answers, as in the official script; training uses the first one. The test split is
not published. So the validation split is the test split here, and validation data is held out of the training split.

In SQuAD 2.0, a question without an answer has an empty target:

    --config.data.train=tfds:squad/v2.0:train --config.data.test=tfds:squad/v2.0:validation
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
