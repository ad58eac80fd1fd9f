"""Now ``autotrainer.backends.pytorch.layers.cosine_attention``."""

from autotrainer.backends.pytorch.layers.cosine_attention import *  # noqa: F403
