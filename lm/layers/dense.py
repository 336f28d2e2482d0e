"""A dense layer."""

from flax import linen as nn

from lm.recurrence import initial


class Dense(nn.Dense):
    """Flax's dense layer, with a kernel that is drawn on the host like all parameters."""

    kernel_init: nn.initializers.Initializer = initial.lecun_normal
