"""Recurrent encoder-decoder language models in JAX and Flax."""

import os

__version__ = "0.3.2"

# Buckets are read as where there is no TensorFlow: with it, etils would import it and raise its errors.
os.environ.setdefault("EPATH_USE_TF", "0")


def __getattr__(name: str):
    # Only when asked for: `lm.recurrence` and `lm.models` import without the data libraries.
    if name in ("load", "Run"):
        from lm.runs import run

        return getattr(run, name)
    if name == "Options":
        from lm.search.options import Options

        return Options
    if name == "changed":
        from lm.config import changed

        return changed
    raise AttributeError(f"module 'lm' has no attribute {name!r}")
