"""Now ``autotrainer.backends.pytorch.layers.functional_patch``."""

from autotrainer.backends.pytorch.layers.functional_patch import *  # noqa: F403
