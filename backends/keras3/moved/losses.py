"""Moved to ``autotrainer.backends.keras3.layers.signed_logistic``."""

from autotrainer.backends.keras3.layers.signed_logistic import *  # noqa: F403
