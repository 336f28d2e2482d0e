"""The flags --config=FILE and --config.SECTION.FIELD=VALUE, which ml_collections parses."""

from absl import flags
from ml_collections import config_flags

from lm import config as configuration
from lm.config.schema import copied
from lm.errors import UserError

USUAL = "configs/tinyworld.py"


class _AsGiven(flags.ArgumentParser):
    """Keeps the text of a duration or list, which the validation parses."""

    def parse(self, argument):
        return argument


class _File(flags.ArgumentParser):
    """Returns a writable copy of the configuration that the file's `get_config()` returns."""

    def parse(self, argument):
        return copied(configuration.from_file(argument))


config_flags.register_flag_parser_for_type(configuration.Duration, _AsGiven())
config_flags.register_flag_parser_for_type(configuration.Names, _AsGiven())
# The flag has no default and no command line yet: ml_collections would read them at once, before `check` runs.
ARGUMENTS: list[str] = []
MEANING = (
    "configuration: a Python file whose get_config() returns an lm.config.Config, "
    f"or the name of a file in configs/; default {USUAL}"
)
config_flags.DEFINE_config_file("config", None, MEANING, sys_argv=ARGUMENTS)
flags.FLAGS["config"].parser = _File()


def check(argv: list[str]) -> None:
    """Raises `UserError` for mistakes that ml_collections answers with a traceback, and gives --config its default."""
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
    """Returns the value of --config, `FILE` or `FILE:TEXT`."""
    return flags.FLAGS["config"].config_filename


def chosen() -> configuration.Config:
    """Returns the configuration of the file, with the values that flags give to its fields."""
    return configuration.changed(
        configuration.from_file(file()), config_flags.get_override_values(flags.FLAGS["config"])
    )
