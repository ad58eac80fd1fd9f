"""Now ``autotrainer.backends.pytorch.layers.modules``."""

from autotrainer.backends.pytorch.layers.modules import *  # noqa: F403
