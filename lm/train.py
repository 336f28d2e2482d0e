"""python train.py [--config=NAME] [--workdir=runs/NAME] [--config.section.field=value ...]

Trains a model, or resumes from the last checkpoint of the run in the workdir. NAME is a file of configs/, such as
shakespeare, or the path of a Python file of your own, whose get_config() returns an lm.config.Config. The flag
--config.section.field=value replaces a field. Away from a checkout the program is `python -m lm.train`.
"""

from absl import flags
from etils import epath

from lm.errors import UserError
from lm.numbers import whole
from lm.terminal import config_flags
from lm.terminal.program import program

WORKDIR = flags.DEFINE_string(
    "workdir", "", "the run's directory; default runs/NAME of NAME.py, or runs/NAME-TEXT of NAME.py:TEXT"
)
PROFILE = flags.DEFINE_string("profile", "", "START:STOP, the steps that are traced into WORKDIR/profile")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "auto", "several hosts: ADDRESS:PORT of the first; auto: as JAX detects it; none: this host alone"
)
PROCESSES = flags.DEFINE_integer("processes", -1, "several hosts: their number; -1: as JAX detects it")
PROCESS = flags.DEFINE_integer("process", -1, "several hosts: the index of this one, from 0; -1: as JAX detects it")


def main() -> None:
    config, profile = config_flags.chosen(), steps_of(PROFILE.value)

    from lm.devices import hosts
    from lm.runs import workdir  # imported late, so that --help and mistakes answer at once
    from lm.training.loop import train

    hosts.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    directory = epath.Path(WORKDIR.value or workdir.usual(config_flags.file())).expanduser()
    train(config, directory, profile, flags.FLAGS.debug)


def steps_of(text: str) -> tuple[int, int] | None:
    """Returns the first and last step of `START:STOP`."""
    start, stop = map(whole, text.partition(":")[::2])
    if text and not (start and stop and start <= stop):
        raise UserError("--profile", f"{text[:40]!r} is not START:STOP", "give first and last step, e.g. 100:110")
    return (start, stop) if text else None


def start() -> None:
    program(main, before_parsing=config_flags.check, has_fields=True, outlives=True)


if __name__ == "__main__":
    start()
