"""python train.py [--config=configs/NAME.py] [--workdir=runs/NAME] [--config.section.field=value ...]

Trains a model, or goes on where the workdir's last checkpoint was. A config file is Python: its get_config() returns
an lm.config.Config, whose fields lm/config.py describes and --config.section.field=value replaces.
"""

import pathlib
import runpy
import traceback

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
    name, _, given = file.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        files = sorted(str(p) for p in pathlib.Path("configs").glob("*.py"))
        raise UserError(f"--config={file}", "there is no such file", nearest(file, files))
    try:
        made = runpy.run_path(name)["get_config"](*([given] if given else []))
    except Exception as error:  # whatever the user's own lines may raise
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        where = f"{name}:{frames[-1]}" if frames else f"--config={file}"
        what = "defines no get_config()" if str(error) == "'get_config'" else f"{type(error).__name__}: {error}"
        raise UserError(where, what, "mend the file") from error
    if not isinstance(made, config.Config):
        what = f"get_config() returned {type(made).__name__}"
        raise UserError(f"--config={file}", what, "return lm.config.Config(...)")


def main() -> None:
    from lm.training import train  # after the flags, so that --help and mistakes answer at once

    chosen = config.validated(CONFIG.value)
    name = pathlib.Path(flags.FLAGS["config"].config_filename.split(":")[0]).stem
    train(chosen, epath.Path(WORKDIR.value or f"runs/{name}").expanduser())


if __name__ == "__main__":
    program(main, check_arguments=check_arguments)
