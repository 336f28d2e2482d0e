"""A dense layer."""

from flax import linen as nn

from lm.recurrence import initial


class Dense(nn.Dense):
    """Flax's, whose kernel is drawn on the host as all parameters are."""

    kernel_init: nn.initializers.Initializer = initial.lecun_normal
