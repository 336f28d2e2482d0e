"""--config=FILE and --config.SECTION.FIELD=VALUE, which ml_collections parses."""

from absl import flags
from ml_collections import config_flags

from lm import config as configuration
from lm.config.schema import copied
from lm.errors import UserError

USUAL = "configs/tinyworld.py"


class _AsGiven(flags.ArgumentParser):
    """Durations are phrases or numbers; the validation reads them."""

    def parse(self, argument):
        return argument


class _File(flags.ArgumentParser):
    """What a file's get_config() returns; values can be written to it even where it is validated."""

    def parse(self, argument):
        return copied(configuration.from_file(argument))


config_flags.register_flag_parser_for_type(configuration.Duration, _AsGiven())
config_flags.register_flag_parser_for_type(configuration.Names, _AsGiven())
# Without a default and a command line: they would be read at once, before `check` has seen them.
ARGUMENTS: list[str] = []
MEANING = f"the configuration: a Python file, or a name among the project's; default {USUAL}"
config_flags.DEFINE_config_file("config", None, MEANING, sys_argv=ARGUMENTS)
flags.FLAGS["config"].parser = _File()


def check(argv: list[str]) -> None:
    """Refuses what ml_collections would answer with a bare KeyError or a traceback, and gives --config its default."""
    file, field = USUAL, ""
    argv = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
    ARGUMENTS[:] = argv
    for i, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            file = value or (argv[i + 1] if i + 1 < len(argv) else "")
            if field:
                raise UserError(field, "comes before --config", "give --config first")
        if argument.startswith("-") and name.startswith("config."):
            configuration.check_path(name.removeprefix("config."), "--config.")
            field = f"--{name}"
    configuration.from_file(file)
    flags.FLAGS.set_default("config", USUAL)


def file() -> str:
    """Returns the file of the configuration, FILE or FILE:TEXT."""
    return flags.FLAGS["config"].config_filename


def chosen() -> configuration.Config:
    """Returns the configuration of the file with the values of the flags."""
    return configuration.changed(
        configuration.from_file(file()), config_flags.get_override_values(flags.FLAGS["config"])
    )
