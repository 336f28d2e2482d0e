"""The configuration: one tree of typed fields, fixed once validated.

A config file's `get_config()` returns a `Config`; `--config.section.field=value` replaces one field.
"""

from lm.config.durations import UNITS, in_steps, parse_duration
from lm.config.groups import Group, parse_group
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
    editable,
    fields,
    get,
)
from lm.config.serialization import defined, differences, from_file, from_json, override, to_json

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
    "defined",
    "differences",
    "editable",
    "fields",
    "from_file",
    "from_json",
    "get",
    "in_steps",
    "override",
    "parse_duration",
    "parse_group",
    "to_json",
    "validated",
]
