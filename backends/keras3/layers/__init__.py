"""Layers, losses and schedules that repairs insert into models.

Saved models name them: importing this package lets `keras.models.load_model` find them.
"""

from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.layers.inserted import CosineAttention, CosineGroupedAttention, Residual
from autotrainer.backends.keras3.layers.label_columns import LabelColumns
from autotrainer.backends.keras3.layers.leading_padding import LeadingPadding
from autotrainer.backends.keras3.layers.scaled_output import ScaledOutput
from autotrainer.backends.keras3.layers.scaled_schedule import ScaledSchedule
from autotrainer.backends.keras3.layers.signed_logistic import SignedLogistic
from autotrainer.backends.keras3.layers.update_clipping import clip_updates

__all__ = [
    "ConvertedLoss",
    "CosineAttention",
    "CosineGroupedAttention",
    "LabelColumns",
    "LeadingPadding",
    "Residual",
    "ScaledOutput",
    "ScaledSchedule",
    "SignedLogistic",
    "clip_updates",
]
