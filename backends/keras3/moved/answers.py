"""Moved to ``autotrainer.backends.keras3.layers.label_columns``."""

from autotrainer.backends.keras3.layers.label_columns import *  # noqa: F403
