"""TinyWorld, the embedded data. Importing this package registers the builder `tinyworld` with TFDS."""

from lm.tinyworld.tinyworld import Tinyworld

__all__ = ["Tinyworld"]
