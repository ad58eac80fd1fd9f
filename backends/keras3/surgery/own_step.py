"""Training steps that models define themselves: which loss they compute, and Keras' own step in their place."""

from __future__ import annotations

import copy
import functools
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.data.batches import read_batches
from autotrainer.backends.keras3.model.loss_kinds import LOSS_FUNCTIONS
from autotrainer.backends.keras3.model.model_calls import call_model, error_reason
from autotrainer.backends.keras3.runtime.called_losses import losses_called
from autotrainer.backends.keras3.runtime.keras_internals import GLOBAL_CUSTOM_NAMES
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.edits import Edit, StandardStep
from autotrainer.errors import ConfigError
from autotrainer.output import logger
from autotrainer.records.data import Data, as_array

__all__ = ["check_own_step", "loss_of_step", "loss_text", "use_standard_step"]

_ROWS = 8


@functools.cache
def _standard(kind: Any) -> Any:
    """Return the class with Keras' own training step; saved models name the user's class."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    standard = type(kind.__name__, (kind,), {"train_step": keras.Model.train_step, **names})
    if kind in GLOBAL_CUSTOM_NAMES:  # it is saved under the registered name, which stays that of the user's class
        GLOBAL_CUSTOM_NAMES[standard] = GLOBAL_CUSTOM_NAMES[kind]
    return standard


def check_own_step(model: Any) -> None:
    """Raise a `ConfigError` if a model trains with Keras' own step, or overrides more than that."""
    kind = type(model)
    if kind.train_step is keras.Model.train_step:
        raise ConfigError("the model trains with Keras' own step already")
    if kind.compute_loss is not keras.Model.compute_loss:
        raise ConfigError(f"{kind.__name__} also computes its loss in code of its own")


def use_standard_step(editor: Editor, edit: StandardStep, apply: bool) -> Edit:
    """Let a model that defines a step train with Keras' own one instead."""
    check_own_step(editor.model)
    if apply:
        kind: Any = type(editor.model)
        editor.model.__class__ = _standard(kind)
    return edit


def loss_of_step(model: Any, data: Data) -> Any:
    """Return the loss of Keras that a model's own training step computes from its outputs and the targets of a batch.

    Args:
        model: A compiled copy of the model, which takes one step.
        data: The training data.

    Raises:
        ConfigError: If the step calls several losses or none, or computes more than that.
    """
    if keras.backend.backend() == "jax":
        raise ConfigError("a Keras step on JAX is a pure function of a state that only a training has")
    calls: list[tuple[Any, ...]] = []

    def note(*call: Any) -> None:
        calls.append(call)

    def fail(error: Exception) -> None:
        logger.debug("a call of a loss was not understood: %s", error)

    batch = next(iter(read_batches(data, 1, _ROWS)))
    inputs, targets, weights = (
        None if part is None else keras.tree.map_structure(lambda v: keras.ops.convert_to_tensor(v[:_ROWS]), part)
        for part in batch
    )
    name = type(model).__name__
    if weights is not None:
        raise ConfigError(f"{name}.train_step() gets weights of the rows, which it may use in its own way")
    try:
        expected = keras.tree.flatten(call_model(model, inputs))
        with losses_called(LOSS_FUNCTIONS, note, fail):
            logs = model.train_step((inputs, targets))
    except Exception as error:
        raise ConfigError(f"{name}.train_step() can't be tried alone: {error_reason(error)}") from error
    if len(calls) != 1 or len(expected) != 1 or keras.tree.is_nested(targets):
        raise ConfigError(f"{name}.train_step() does not compute a single loss of Keras of a single output")
    loss, given, outputs, value = calls[0]
    if tuple(outputs.shape) != tuple(expected[0].shape) or not _equal(given, targets):
        raise ConfigError(f"{name}.train_step() computes its loss of other values than outputs and targets")
    total = logs.get("loss") if isinstance(logs, dict) else None
    if total is not None and not _equal(total, keras.ops.mean(value)):
        raise ConfigError(f"{name}.train_step() computes more than its loss")
    if getattr(loss, "reduction", "sum") in (None, "none"):  # the step takes the mean itself
        loss = copy.copy(loss)
        loss.reduction = "sum_over_batch_size"
    return loss


def loss_text(loss: Any) -> str:
    """Return a loss as in code: its class or function, and whether it takes logits."""
    if not isinstance(loss, keras.losses.Loss):
        return str(getattr(getattr(loss, "func", loss), "__name__", "loss"))
    logits = "from_logits=True" if loss.get_config().get("from_logits") else ""
    return f"keras.losses.{type(loss).__name__}({logits})"


def _equal(values: Any, others: Any) -> bool:
    first, second = (np.asarray(as_array(v), np.float64).reshape(-1) for v in (values, others))
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=1e-4, atol=1e-6))
