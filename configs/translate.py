r"""Translation with attention, measured on Multi30k (multi30k/dataset, task 1, raw), German to English.

    python train.py --config=configs/translate.py --workdir=runs/de-en \
      --config.data.train=parallel:train.de,train.en \
      --config.data.validation=parallel:validation.de,validation.en \
      --config.data.test=parallel:test2016.de,test2016.en
    python -m lm.evaluate --workdir=runs/de-en --lowercase

Results with seed 0 on one CPU core with other load: BLEU on test2016 (lower-cased, 13a) of the checkpoint with the best
validation loss, which is the last one. The beam search is `--beam_size=5 --length_penalty=1`.

    direction             seconds of training    greedy    beam search
    German to English     4,269                  39.5      40.3
    English to German     3,717                  34.8      37.3

The model has 3.5 million parameters: a bidirectional LSTM encoder and an LSTM decoder with dot attention, one layer
each. Both languages share one vocabulary, and both embeddings and the head share one matrix.
"""

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
