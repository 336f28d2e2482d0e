"""Questions about facts on TinyWorld, the answer a span of the source."""

import pathlib
import runpy

from lm.config import Config


def get_config() -> Config:
    config = runpy.run_path(str(pathlib.Path(__file__).parent / "questions.py"))["get_config"]()
    config.data.task = "extract"
    config.data.source_format = "yes no nobody none one two three four five six seven eight . {source}"
    config.data.target_format = "{target}"
    return config
