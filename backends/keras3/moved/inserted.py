"""Moved to ``autotrainer.backends.keras3.layers.inserted``."""

from autotrainer.backends.keras3.layers.inserted import *  # noqa: F403
