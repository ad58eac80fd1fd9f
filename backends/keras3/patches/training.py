"""Lines of Keras code for edits of how a training goes."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import optimizer_arguments
from autotrainer.backends.keras3.patches.base import optimizer_with, patch_lines
from autotrainer.edits import OPTIMIZERS
from autotrainer.safe_text import safe_line

_LOSSES = {
    "cross_entropy": "SparseCategoricalCrossentropy(from_logits={})  # CategoricalCrossentropy for one-hot targets",
    "binary_cross_entropy": "BinaryCrossentropy(from_logits={})",
    "squared_error": "MeanSquaredError()",
    "absolute_error": "MeanAbsoluteError()",
}


@patch_lines.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"model.optimizer.learning_rate = {edit.value:g}"]


@patch_lines.register
def _(edit: e.StandardStep) -> list[str]:
    loss = safe_line(edit.loss or "the loss that it calls")
    return [f"# in the class of the model: leave train_step out, and compile it with loss={loss}"]


@patch_lines.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"learning_rate={edit.learning_rate:g}{optimizer_arguments(edit)}"
    return [f"model.optimizer = keras.optimizers.{OPTIMIZERS[edit.name]}({arguments})"]


@patch_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    return [optimizer_with(momentum=edit.value, **({"nesterov": True} if edit.nesterov else {}))]


@patch_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        optimizer_with(weight_decay=edit.value),
        "model.optimizer.exclude_from_weight_decay(",
        "    var_list=[v for v in model.trainable_variables if len(v.shape) < 2])  # biases, normalization",
    ]


@patch_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    norm, value = (edit.limit, None) if edit.kind == "norm" else (None, edit.limit)
    return [optimizer_with(global_clipnorm=norm, clipvalue=value, clipnorm=None)]


@patch_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "plateau = keras.callbacks.ReduceLROnPlateau(",
        f"    factor={edit.factor:g}, patience={edit.patience}, min_delta=0, "
        f"min_lr={edit.floor:g} * float(model.optimizer.learning_rate))",
        "# model.fit(..., callbacks=[plateau])",
    ]


@patch_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        f"stopping = keras.callbacks.EarlyStopping(patience={edit.patience}, restore_best_weights=True)",
        "# model.fit(..., callbacks=[stopping])",
    ]


@patch_lines.register
def _(edit: e.SetLoss) -> list[str]:
    logits = edit.expects in ("logits", "log_probabilities")  # a softmax leaves log-probabilities as they are
    if edit.name != "signed_logistic":
        line = f"loss = keras.losses.{_LOSSES[edit.name].format(logits)}"
    elif edit.expects == "probabilities":
        line = "loss = lambda y, p: keras.losses.binary_crossentropy((y + 1) / 2, p)  # targets in {-1, 1}"
    else:
        line = "loss = lambda y, z: keras.ops.mean(keras.ops.softplus(-y * z), axis=-1)  # targets in {-1, 1}"
    return [line, "# model.compile(..., loss=loss)"]
