"""Edits as lines of Keras code.

Lines that are no comments run as they stand, behind ``model.compile``. What needs the user's own hand is a comment.
"""

from __future__ import annotations

from functools import singledispatch

from autotrainer import edits as e
from autotrainer.patch_words import OPTIMIZERS, numbers, optimizer_arguments

__all__ = ["keras_lines"]

_LOSSES = {
    "cross_entropy": "SparseCategoricalCrossentropy(from_logits={})  # CategoricalCrossentropy for one-hot targets",
    "binary_cross_entropy": "BinaryCrossentropy(from_logits={})",
    "squared_error": "MeanSquaredError()",
    "absolute_error": "MeanAbsoluteError()",
}


@singledispatch
def keras_lines(edit: e.Edit) -> list[str]:
    """Return an edit as lines of Keras code."""
    raise TypeError(f"no lines for {type(edit).__name__}")


@keras_lines.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"model.optimizer.learning_rate = {edit.value:g}"]


@keras_lines.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"learning_rate={edit.learning_rate:g}{optimizer_arguments(edit)}"
    return [f"model.optimizer = keras.optimizers.{OPTIMIZERS[edit.name]}({arguments})"]


def _optimizer_with(**settings: object) -> str:
    """Return the line that makes the optimizer anew with other settings."""
    changed = ", ".join(f"{name!r}: {value!r}" for name, value in settings.items())
    return f"model.optimizer = model.optimizer.from_config({{**model.optimizer.get_config(), {changed}}})"


@keras_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    return [_optimizer_with(momentum=edit.value, **({"nesterov": True} if edit.nesterov else {}))]


@keras_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        _optimizer_with(weight_decay=edit.value),
        "model.optimizer.exclude_from_weight_decay(",
        "    var_list=[v for v in model.trainable_variables if len(v.shape) < 2])  # biases, normalization",
    ]


@keras_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    norm, value = (edit.limit, None) if edit.kind == "norm" else (None, edit.limit)
    return [_optimizer_with(global_clipnorm=norm, clipvalue=value, clipnorm=None)]


@keras_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "plateau = keras.callbacks.ReduceLROnPlateau(",
        f"    factor={edit.factor:g}, patience={edit.patience}, "
        f"min_lr={edit.floor:g} * float(model.optimizer.learning_rate))",
        "# model.fit(..., callbacks=[plateau])",
    ]


@keras_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"# model.fit(..., batch_size={edit.size})"]


@keras_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        f"stopping = keras.callbacks.EarlyStopping(patience={edit.patience}, restore_best_weights=True)",
        "# model.fit(..., callbacks=[stopping])",
    ]


@keras_lines.register
def _(edit: e.SetLoss) -> list[str]:
    if edit.name == "signed_logistic":
        line = "loss = lambda y, z: keras.ops.mean(keras.ops.softplus(-y * z), axis=-1)  # targets in {-1, 1}"
    else:
        line = f"loss = keras.losses.{_LOSSES[edit.name].format(edit.expects == 'logits')}"
    return [line, "# model.compile(..., loss=loss)"]


def _activation(name: str) -> str:
    if name == "thresholded_relu":
        return "activation=lambda x: keras.activations.relu(x, threshold=1.0)"
    return f"activation={name!r}"


@keras_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in the last layer:  {_activation(edit.to)}"]


@keras_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    initializer = f", kernel_initializer={e.initializer_for(edit.to)!r}" if edit.reinitialize else ""
    return [f"# in {', '.join(edit.layers)}:  {_activation(edit.to)}{initializer}"]


@keras_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [f"# in {', '.join(edit.layers)}:  kernel_initializer={edit.scheme!r}"]


@keras_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    layer = {"batch": "BatchNormalization()", "layer": "LayerNormalization()", "group": "GroupNormalization(8)"}
    return [f"# behind {', '.join(edit.layers)}, before their activation:  keras.layers.{layer[edit.kind]}"]


@keras_lines.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  keras.layers.Dropout({edit.rate:g})"]


@keras_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"# behind the input:  keras.layers.GaussianNoise({edit.std:g} * x_train.std())"]


@keras_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(axis=0)) / x_train.std(axis=0)  # the numbers of the training data, everywhere"]
    return [
        f"mean, std = np.array({numbers(edit.mean)}), np.array({numbers(edit.std)})",
        "x = (x - mean) / std  # everywhere the model is used",
    ]
