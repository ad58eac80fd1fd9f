"""The losses of a compiled model, and those that `SetLoss` asks for, which take the user's targets unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.layers.signed_logistic import SignedLogistic
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.edits import SetLoss
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError
from autotrainer.records.task import TargetSummary

__all__ = ["check_loss", "compiled_losses", "in_output_order", "is_custom_loss", "make_loss"]


def compiled_losses(model: Any) -> tuple[Any, ...]:
    """Return the losses that a compiled model takes, one for each output with a loss, in the order of the outputs.

    Each has the attributes ``loss`` (a `keras.losses.Loss`), ``path`` (keys and indices that lead to its output) and
    ``name`` (that of its output).
    Empty until Keras has seen a batch, and for a model without a loss.
    """
    losses = tuple(getattr(getattr(model, "_compile_loss", None), "_flat_losses", None) or ())
    by_name = all(each.path and isinstance(each.path[0], str) for each in losses)  # in the order of the user's dict
    return tuple(sorted(losses, key=lambda each: tuple(map(str, each.path)))) if by_name else losses


def in_output_order(values: Any, model: Any) -> Any:
    """Return losses or targets that are given by the names of outputs as a list in the order of a model's outputs.

    Others are returned as they are. Keras itself looks targets up by name, in whatever order they and the losses are.
    """
    if not isinstance(values, Mapping) or "class_name" in values:
        return values
    outputs = model.output if has_graph(model) else None
    names = sorted(outputs, key=str) if isinstance(outputs, Mapping) else getattr(model, "output_names", None) or ()
    # Without a graph, outputs with names are read in the order of these.
    order = names if set(values) <= set(names) else sorted(values, key=str)
    return [values[name] for name in order if name in values]


def check_loss(loss: Any) -> None:
    """Check that a loss is a name, function, object or configuration, or a list or dict of those with at least one.

    Raises:
        InputError: If it is none of these.
    """
    parts = list(_parts(loss))
    if not any(part is not None for part in parts) and loss is not None:
        raise InputError(f"loss={shorten(loss)} holds no loss: give a name, function or object of keras.losses")
    for part in parts:
        try:
            usable = part is None or callable(keras.losses.get(part) if isinstance(part, str | Mapping) else part)
        except (ValueError, TypeError, KeyError) as error:
            raise _unknown_loss(part) from error
        if not usable:
            raise _unknown_loss(part)


def _parts(loss: Any) -> Iterator[Any]:
    is_config = isinstance(loss, Mapping) and "class_name" in loss
    if is_config or not isinstance(loss, list | tuple | Mapping):
        yield loss
        return
    for part in loss.values() if isinstance(loss, Mapping) else loss:
        yield from _parts(part)


def _unknown_loss(loss: Any) -> InputError:
    return InputError(f"loss={shorten(loss)} is not a Keras loss: give a name, function or object of keras.losses")


def is_custom_loss(loss: Any) -> bool:
    """Return whether a loss is a class of the user's; Keras aligns shapes only for its own losses."""
    return isinstance(loss, keras.losses.Loss) and not type(loss).__module__.startswith(("keras.", "autotrainer."))


def make_loss(edit: SetLoss, targets: TargetSummary, output_shape: tuple[int | None, ...]) -> Any:
    """Return the Keras loss of an edit.

    Args:
        edit: The edit.
        targets: Summary of the targets.
        output_shape: Shape of the model's output, rows first; None for unknown sizes.

    Raises:
        ConfigError: If the loss does not accept these targets and outputs.
    """
    units = output_shape[-1] if len(output_shape) > 1 else 1
    logits = edit.expects in ("logits", "log_probabilities")  # softmax leaves log-probabilities unchanged
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
        raise ConfigError("cross_entropy needs one output unit per class; this model has a single unit")
    if targets.width > 1 and targets.width == units and not _are_indices(targets):
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    if targets.count and not targets.integral:
        raise ConfigError("cross_entropy takes class indices or one-hot targets; these are real numbers")
    if units is not None and targets.count and targets.maximum >= units:
        raise ConfigError(f"targets go up to {targets.maximum:g}, but the output has {units} units")
    ignored = int(targets.minimum) if targets.count and targets.minimum < 0 else None
    ignored = -100 if targets.masked else ignored
    return keras.losses.SparseCategoricalCrossentropy(from_logits=logits, ignore_class=ignored)


def _are_indices(targets: TargetSummary) -> bool:
    """Return whether rows as wide as the output are sequences of class indices, not one-hot rows."""
    return targets.integral and targets.maximum > 1


def _check_widths(name: str, targets: TargetSummary, output_shape: tuple[int | None, ...]) -> None:
    units = output_shape[-1] if len(output_shape) > 1 else 1
    if targets.count and units is not None and targets.rank >= len(output_shape) and targets.width != units:
        raise ConfigError(f"{name} needs targets as wide as the output: {units} columns, not {targets.width}")
    if targets.count and targets.rank < len(output_shape) and units not in (1, None):
        raise ConfigError(f"{name} needs one target per output unit: {units} units, but one target value per row")
