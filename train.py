"""python train.py [--config=configs/NAME.py] [--workdir=runs/NAME] [--config.section.field=value ...]

Trains a model, or goes on where the workdir's last checkpoint was. A config file is Python: its get_config() returns
an lm.config.Config, whose fields lm/config/schema.py describes and --config.section.field=value replaces.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

import lm
from lm import config as configuration
from lm.errors import UserError
from lm.numbers import whole
from lm.terminal.program import program


class _AsGiven(flags.ArgumentParser):
    """Durations are phrases or numbers; the validation reads them."""

    def parse(self, argument):
        return argument


config_flags.register_flag_parser_for_type(configuration.Duration, _AsGiven())
config_flags.register_flag_parser_for_type(configuration.Names, _AsGiven())
WORKDIR = flags.DEFINE_string(
    "workdir", "", "the run's directory; default runs/NAME of NAME.py, or runs/NAME-TEXT of NAME.py:TEXT"
)
PROFILE = flags.DEFINE_string("profile", "", "START:STOP, steps that are traced into WORKDIR/profile")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "auto", "many hosts: ADDRESS:PORT of the first; auto: as JAX finds it; none: this host alone"
)
PROCESSES = flags.DEFINE_integer("processes", -1, "many hosts: how many; -1: as JAX finds it")
PROCESS = flags.DEFINE_integer("process", -1, "many hosts: which one this is, from 0; -1: as JAX finds it")


def define_config(argv: list[str]) -> None:
    """Defines --config, when all is refused that ml_collections would answer with a bare KeyError or a traceback."""
    file = "configs/tinyworld.py"
    argv = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
    for i, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            file = value or (argv[i + 1] if i + 1 < len(argv) else "")
        if argument.startswith("-") and name.startswith("config."):
            configuration.check_path(name.removeprefix("config."), "--config.")
    configuration.from_file(file)
    config_flags.DEFINE_config_file("config", "configs/tinyworld.py", "the configuration, a Python file")


def chosen() -> configuration.Config:
    """Returns the configuration of the file with the values of the flags, which ml_collections parsed."""
    flag = flags.FLAGS["config"]
    return lm.changed(configuration.from_file(flag.config_filename), config_flags.get_override_values(flag))


def main() -> None:
    config, profile = chosen(), steps_of(PROFILE.value)

    from lm.devices import hosts
    from lm.runs import workdir  # after the flags, so that --help and mistakes answer at once
    from lm.training.loop import train

    hosts.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    directory = epath.Path(WORKDIR.value or workdir.usual(flags.FLAGS["config"].config_filename)).expanduser()
    train(config, directory, profile, flags.FLAGS.debug)


def steps_of(text: str) -> tuple[int, int] | None:
    """The first and last step of `START:STOP`."""
    start, stop = map(whole, text.partition(":")[::2])
    if text and not (start and stop and start <= stop):
        raise UserError("--profile", f"{text[:40]!r} is not START:STOP", "give first and last step, e.g. 100:110")
    return (start, stop) if text else None


if __name__ == "__main__":
    program(main, before_parsing=define_config)
