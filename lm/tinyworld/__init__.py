"""TinyWorld, the data set that comes with the code. Importing this package registers `tinyworld` with TFDS."""

from lm.tinyworld.tinyworld import Tinyworld

__all__ = ["Tinyworld"]
