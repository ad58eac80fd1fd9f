"""Moved to ``autotrainer.backends.keras3.layers.update_clipping``."""

from autotrainer.backends.keras3.layers.update_clipping import *  # noqa: F403
