"""The losses that `SetLoss` asks for, built so that the user's targets stay as they are."""

from __future__ import annotations

from typing import Any

import keras

from autotrainer.backends.keras3.layers.signed_logistic import SignedLogistic
from autotrainer.edits import SetLoss
from autotrainer.errors import ConfigError
from autotrainer.records.task import TargetSummary

__all__ = ["make_loss", "takes_as_given"]


def takes_as_given(loss: Any) -> bool:
    """Say whether a loss is a class of the user's own, which gets shapes as they are: Keras aligns those of others."""
    return isinstance(loss, keras.losses.Loss) and not type(loss).__module__.startswith(("keras.", "autotrainer."))


def make_loss(edit: SetLoss, targets: TargetSummary, output_shape: tuple[int | None, ...]) -> Any:
    """Return the Keras loss of an edit.

    Args:
        edit: The edit.
        targets: What the targets look like.
        output_shape: Shape of the model's output, rows first.

    Raises:
        ConfigError: If targets and outputs do not go together under this loss.
    """
    units = output_shape[-1] if len(output_shape) > 1 else 1
    logits = edit.expects in ("logits", "log_probabilities")  # softmax leaves log-probabilities as they are
    if edit.name == "cross_entropy":
        return _cross_entropy(targets, units, logits)
    _check_widths(edit.name, targets, output_shape)
    if edit.name == "binary_cross_entropy":
        if targets.count and (targets.minimum < 0 or targets.maximum > 1):
            raise ConfigError("binary_cross_entropy takes targets in [0, 1]")
        return keras.losses.BinaryCrossentropy(from_logits=logits)
    if edit.name == "signed_logistic":
        if targets.count and not targets.signed:
            raise ConfigError("signed_logistic takes targets -1 and 1")
        return SignedLogistic(from_logits=logits)
    if edit.name == "squared_error":
        return keras.losses.MeanSquaredError()
    return keras.losses.MeanAbsoluteError()


def _cross_entropy(targets: TargetSummary, units: int | None, logits: bool) -> Any:
    if units == 1:
        raise ConfigError("cross_entropy needs an output of one unit a class; this one has a single unit")
    if targets.width > 1 and targets.width == units and not _indices(targets):
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    if targets.count and not targets.integral:
        raise ConfigError("cross_entropy takes class indices or one-hot targets; these are real numbers")
    if units is not None and targets.count and targets.maximum >= units:
        raise ConfigError(f"targets go up to {targets.maximum:g}, but the output has {units} units")
    ignored = int(targets.minimum) if targets.count and targets.minimum < 0 else None
    ignored = -100 if targets.masked else ignored
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits, ignore_class=ignored)


def _indices(targets: TargetSummary) -> bool:
    """Say whether rows as wide as the output hold class indices after all (sequences as long as there are classes)."""
    return targets.integral and targets.maximum > 1


def _check_widths(name: str, targets: TargetSummary, output_shape: tuple[int | None, ...]) -> None:
    units = output_shape[-1] if len(output_shape) > 1 else 1
    if targets.count and units is not None and targets.rank >= len(output_shape) and targets.width != units:
        raise ConfigError(f"{name} takes targets of the output's width {units}, not {targets.width}")
    if targets.count and targets.rank < len(output_shape) and units not in (1, None):
        raise ConfigError(f"{name} takes one target a unit; the output has {units} units, the targets one value a row")
