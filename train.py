"""python train.py [--config=configs/NAME.py] [--workdir=runs/NAME] [--config.section.field=value ...]

Trains a model, or goes on where the workdir's last checkpoint was. A config file is Python: its get_config() returns
an lm.config.Config, whose fields lm/config.py describes and --config.section.field=value replaces.
"""

import pathlib

from absl import flags
from etils import epath
from ml_collections import config_flags

from lm import config
from lm.errors import UserError, nearest, program


class _AsGiven(flags.ArgumentParser):
    """Durations are phrases or numbers; the validation reads them."""

    def parse(self, argument):
        return argument


config_flags.register_flag_parser_for_type(config.Duration, _AsGiven())
config_flags.register_flag_parser_for_type(config.Names, _AsGiven())
CONFIG = config_flags.DEFINE_config_file("config", "configs/tinyworld.py", "the configuration, a Python file")
WORKDIR = flags.DEFINE_string("workdir", "", "the run's directory; default runs/NAME of the config file")


def check_arguments(argv: list[str]) -> None:
    """What ml_collections would answer with a bare KeyError or a traceback."""
    names = [path for path, _, _ in config.fields(config.Config())]
    file = "configs/tinyworld.py"
    for i, argument in enumerate(argv[1:], start=1):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            file = value or (argv[i + 1] if i + 1 < len(argv) else "")
        if argument.startswith("-") and name.startswith("config."):
            field = name.removeprefix("config.")
            if field not in names:
                raise UserError(f"--{name}", "there is no such field", nearest(field, names))
    config.from_file(file)


def main() -> None:
    from lm.training import train  # after the flags, so that --help and mistakes answer at once

    chosen = config.validated(CONFIG.value)
    name = pathlib.Path(flags.FLAGS["config"].config_filename.split(":")[0]).stem
    train(chosen, epath.Path(WORKDIR.value or f"runs/{name}").expanduser())


if __name__ == "__main__":
    program(main, check_arguments=check_arguments)
