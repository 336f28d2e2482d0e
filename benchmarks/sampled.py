"""python -m benchmarks.sampled --text=TRAIN,VALIDATION [--candidates=0,512,2048,8192] [--steps='6 epochs']

Measures the cost of a sampled softmax in quality. The same LSTM over whole words, one document per line, is trained
with each number of candidates; 0 is the softmax over all words. Prints nats per word of the last evaluation, which is
always over all words, the difference to the first number, seconds of training, and the number of unknown words in the
evaluation.
"""

import tempfile

from absl import flags
from etils import epath

from lm import config as configuration
from lm.config import Config, DataConfig, ModelConfig, OptimizerConfig, TokenizerConfig, TrainingConfig
from lm.errors import UserError
from lm.runs import log
from lm.terminal.program import program
from lm.training import loop


def setting(texts: list[str], candidates: int, steps: str) -> Config:
    train, validation = (f"parallel:{text},{text} | | {{target}}" for text in texts)
    return Config(
        data=DataConfig(
            train=train,
            validation=validation,
            test="",
            task="lm",
            batch_size=32,
            window=64,
            tokenizer=TokenizerConfig(kind="words"),
        ),
        model=ModelConfig(embed_dim=256, hidden_dim=256, layers=1, dropout=0.3),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup=100, schedule="linear", final_fraction=0.02),
        training=TrainingConfig(steps=steps, eval_every="1 epoch", log_every=100, sampled_softmax=candidates),
    )


def main() -> None:
    values, found = flags.FLAGS, []
    if len(values.text) != 2 or not all(each.isdecimal() for each in values.candidates):
        raise UserError("command line", "two texts and numbers are needed", "give --text=TRAIN,VALIDATION")
    for candidates in map(int, values.candidates):
        with tempfile.TemporaryDirectory() as folder:
            run = epath.Path(folder) / "run"
            loop.train(configuration.validated(setting(values.text, candidates, values.steps)), run)
            last = log.read_metrics(run)[-1]
            unknown = f"{last['unknown_tokens']:,} of {last['tokens']:,} words unknown"
            found.append((candidates, last["loss"], last["seconds"], unknown))
    for candidates, loss, seconds, unknown in found:
        print(f"{candidates or 'all':>8} {loss:8.4f} nats  {loss - found[0][1]:+8.4f} {seconds:8.1f} s  {unknown}")


if __name__ == "__main__":
    flags.DEFINE_list("text", None, "two files, one document a line: to train on, and to evaluate on")
    flags.DEFINE_list("candidates", ["0", "512", "2048", "8192"], "of the sampled softmax; 0: all words")
    flags.DEFINE_string("steps", "6 epochs", "of each")
    program(main, required=("text",))
