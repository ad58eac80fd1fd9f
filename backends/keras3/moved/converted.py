"""Moved to ``autotrainer.backends.keras3.layers.converted_loss``."""

from autotrainer.backends.keras3.layers.converted_loss import *  # noqa: F403
