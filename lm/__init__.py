"""Recurrent encoder-decoder language models in JAX and Flax."""

__version__ = "0.2.1"


def __getattr__(name: str):
    # Only when asked for: `lm.recurrence` and `lm.models` import without the data libraries.
    if name in ("load", "Run"):
        from lm import run

        return getattr(run, name)
    if name == "Options":
        from lm.options import Options

        return Options
    raise AttributeError(f"module 'lm' has no attribute {name!r}")
