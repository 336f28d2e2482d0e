"""The configuration: one tree of typed fields, which cannot be changed once it is validated.

A config file's `get_config()` returns a `Config`. `changed`, or `--config.SECTION.FIELD=VALUE` on the command line,
replaces values of its fields.
"""

from lm.config.durations import UNITS, in_steps, parse_duration
from lm.config.groups import Group, parse_group
from lm.config.overrides import changed, check_path, from_text, near_fields
from lm.config.rules import validated
from lm.config.schema import (
    NORMALIZATIONS,
    TOKENIZERS,
    Config,
    DataConfig,
    Duration,
    ModelConfig,
    Names,
    NoiseConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainingConfig,
    fields,
    get,
)
from lm.config.serialization import defined, differences, from_file, from_json, named, to_json

__all__ = [
    "NORMALIZATIONS",
    "TOKENIZERS",
    "UNITS",
    "Config",
    "DataConfig",
    "Duration",
    "Group",
    "ModelConfig",
    "Names",
    "NoiseConfig",
    "OptimizerConfig",
    "TokenizerConfig",
    "TrainingConfig",
    "changed",
    "check_path",
    "defined",
    "differences",
    "fields",
    "from_file",
    "from_json",
    "from_text",
    "get",
    "in_steps",
    "named",
    "near_fields",
    "parse_duration",
    "parse_group",
    "to_json",
    "validated",
]
