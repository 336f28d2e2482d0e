"""TinyWorld, the embedded data. Importing this package registers the builder `tinyworld` with TFDS."""

from lm.data.tinyworld.tinyworld import Tinyworld

__all__ = ["Tinyworld"]
