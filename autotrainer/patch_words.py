"""Edits in words, and how names and numbers are written in them and in lines of code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from autotrainer import edits as e

__all__ = ["OPTIMIZERS", "numbers", "optimizer_arguments", "words"]

OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "Nadam",
    "adamax": "Adamax",
    "rmsprop": "RMSprop",
}
"""Optimizers as papers and Keras spell them."""

_INITIALIZERS = {"he_uniform": "He uniform", "lecun_normal": "LeCun normal", "glorot_uniform": "Glorot uniform"}


@singledispatch
def words(edit: e.Edit) -> str:
    """Return an edit as one sentence without a full stop."""
    raise TypeError(f"no words for {type(edit).__name__}")


def numbers(values: Sequence[float]) -> str:
    """Return numbers as a list in Python, six digits each."""
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def optimizer_arguments(edit: e.SwapOptimizer) -> str:
    """Return the arguments of an optimizer behind its learning rate, which are the same in both frameworks."""
    momentum = f", momentum={edit.momentum:g}" if edit.momentum else ""
    decay = f", weight_decay={edit.weight_decay:g}" if edit.weight_decay or edit.name == "adamw" else ""  # has one
    return momentum + decay


def _names(layers: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in layers[:6])
    return shown + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")


@words.register
def _(edit: e.SetLearningRate) -> str:
    return f"learning rate {edit.value:g}"


@words.register
def _(edit: e.SwapOptimizer) -> str:
    momentum = f", momentum {edit.momentum:g}" if edit.momentum else ""
    return f"optimizer {OPTIMIZERS[edit.name]}, learning rate {edit.learning_rate:g}{momentum}"


@words.register
def _(edit: e.SetMomentum) -> str:
    return f"momentum {edit.value:g} in SGD"


@words.register
def _(edit: e.SetWeightDecay) -> str:
    return f"weight decay {edit.value:g} on weight matrices, not on biases and normalization"


@words.register
def _(edit: e.ClipGradients) -> str:
    return f"gradients clipped by {edit.kind} to {edit.limit:g} before each step"


@words.register
def _(edit: e.ReduceOnPlateau) -> str:
    return (
        f"learning rate × {edit.factor:g} after {edit.patience} epochs without progress, "
        f"not below {edit.floor:g} of the initial one"
    )


@words.register
def _(edit: e.SetBatchSize) -> str:
    return f"batches of {edit.size} samples"


@words.register
def _(edit: e.StopEarly) -> str:
    return f"stop after {edit.patience} epochs without a better validation loss, best weights restored"


@words.register
def _(edit: e.SetLoss) -> str:
    return f"loss: {edit.name.replace('_', ' ')} on {edit.expects.replace('_', ' ')}"


@words.register
def _(edit: e.SetOutputActivation) -> str:
    return "no activation on the output" if edit.to == "linear" else f"output activation {edit.to}"


@words.register
def _(edit: e.SwapActivation) -> str:
    drawn = f", weights redrawn ({_INITIALIZERS[e.initializer_for(edit.to)]})" if edit.reinitialize else ""
    return f"{_names(edit.layers)}: activation {edit.to}{drawn}"


@words.register
def _(edit: e.Reinitialize) -> str:
    return f"{_names(edit.layers)}: weights redrawn ({edit.scheme.replace('_', ' ')}), biases zero"


@words.register
def _(edit: e.InsertNormalization) -> str:
    return f"{_names(edit.layers)}: {edit.kind} normalization between layer and activation"


@words.register
def _(edit: e.AddDropout) -> str:
    return f"{_names(edit.layers)}: dropout {edit.rate:g} behind the activation"


@words.register
def _(edit: e.AddInputNoise) -> str:
    return f"Gaussian noise on the inputs while training, {edit.std:g} of their standard deviation"


@words.register
def _(edit: e.ScaleInputs) -> str:
    return "inputs standardized inside the model with mean and standard deviation of the training data"
