"""Moved to ``autotrainer.backends.keras3.layers.scaled_schedule``."""

from autotrainer.backends.keras3.layers.scaled_schedule import *  # noqa: F403
