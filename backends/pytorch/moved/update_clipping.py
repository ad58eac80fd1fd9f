"""Now ``autotrainer.backends.pytorch.layers.update_clipping``."""

from autotrainer.backends.pytorch.layers.update_clipping import *  # noqa: F403
