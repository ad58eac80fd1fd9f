"""Edits as lines of Keras code."""

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
    return [f"model.compile(optimizer=keras.optimizers.{OPTIMIZERS[edit.name]}({arguments}), loss=...)"]


@keras_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    return [f"keras.optimizers.SGD(learning_rate=..., momentum={edit.value:g})"]


@keras_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        f"optimizer = keras.optimizers.AdamW(learning_rate=..., weight_decay={edit.value:g})",
        "optimizer.exclude_from_weight_decay(var_names=['bias', 'gamma', 'beta'])",
    ]


@keras_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    argument = "global_clipnorm" if edit.kind == "norm" else "clipvalue"
    return [f"keras.optimizers.Adam(..., {argument}={edit.limit:g})  # the same argument in every optimizer"]


@keras_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "callbacks=[keras.callbacks.ReduceLROnPlateau(",
        f"    factor={edit.factor:g}, patience={edit.patience}, min_lr={edit.floor:g} * initial_rate)]",
    ]


@keras_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"model.fit(..., batch_size={edit.size})"]


@keras_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [f"callbacks=[keras.callbacks.EarlyStopping(patience={edit.patience}, restore_best_weights=True)]"]


@keras_lines.register
def _(edit: e.SetLoss) -> list[str]:
    if edit.name == "signed_logistic":
        return ["loss = lambda y, z: keras.ops.mean(keras.ops.softplus(-y * z))  # targets in {-1, 1}"]
    return [f"loss = keras.losses.{_LOSSES[edit.name].format(edit.expects == 'logits')}"]


@keras_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"layers.Dense(..., activation={edit.to!r})  # the last layer"]


@keras_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    scheme = e.initializer_for(edit.to)
    initializer = f", kernel_initializer={scheme!r}" if edit.reinitialize else ""
    return [f"layers.Dense(..., activation={edit.to!r}{initializer})  # {', '.join(edit.layers)}"]


@keras_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [f"layers.Dense(..., kernel_initializer={edit.scheme!r})  # {', '.join(edit.layers)}"]


@keras_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    layer = {"batch": "BatchNormalization()", "layer": "LayerNormalization()", "group": "GroupNormalization(8)"}
    return [f"# behind {', '.join(edit.layers)}, before their activation:  layers.{layer[edit.kind]}"]


@keras_lines.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  layers.Dropout({edit.rate:g})"]


@keras_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"layers.GaussianNoise({edit.std:g} * x_train.std())  # behind the input"]


@keras_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["scaling = layers.Normalization(); scaling.adapt(x_train)  # behind the input"]
    return [
        f"mean, std = np.array({numbers(edit.mean)}), np.array({numbers(edit.std)})",
        "layers.Normalization(mean=mean, variance=std**2)  # behind the input",
    ]
