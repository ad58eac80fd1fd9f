"""Edits of how a training goes, in words and lines."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.reporting.patches.base import (
    OPTIMIZERS,
    keras_lines,
    optimizer_arguments,
    optimizer_with,
    pytorch_lines,
    words,
)

_OPTIMIZERS = {**OPTIMIZERS, "nadam": "NAdam"}


def _elementwise(name: str) -> str:
    """Return the line of a loss that takes targets of the form of the outputs, whatever the form as given."""
    return f"loss_fn = lambda z, y: nn.functional.{name}(z, y.reshape(z.shape).to(z))"


_PYTORCH_LOSSES = {
    ("cross_entropy", "logits"): "loss_fn = nn.CrossEntropyLoss()  # class indices, or one-hot rows as floats",
    ("cross_entropy", "probabilities"): (
        "loss_fn = lambda p, y: nn.functional.cross_entropy(p.clamp_min(1e-7).log(), y)"
        "  # class indices, or one-hot rows as floats"
    ),
    ("cross_entropy", "log_probabilities"): "loss_fn = nn.NLLLoss()  # class indices",
    ("binary_cross_entropy", "logits"): _elementwise("binary_cross_entropy_with_logits"),
    ("binary_cross_entropy", "probabilities"): _elementwise("binary_cross_entropy"),
    ("signed_logistic", "logits"): _elementwise("soft_margin_loss") + "  # targets in {-1, 1}",
    ("squared_error", "values"): _elementwise("mse_loss"),
    ("absolute_error", "values"): _elementwise("l1_loss"),
}

_KERAS_LOSSES = {
    "cross_entropy": "SparseCategoricalCrossentropy(from_logits={})  # CategoricalCrossentropy for one-hot targets",
    "binary_cross_entropy": "BinaryCrossentropy(from_logits={})",
    "squared_error": "MeanSquaredError()",
    "absolute_error": "MeanAbsoluteError()",
}


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
def _(edit: e.StopEarly) -> str:
    return f"stop after {edit.patience} epochs without a better validation loss, best weights restored"


@words.register
def _(edit: e.SetLoss) -> str:
    return f"loss: {edit.name.replace('_', ' ')} on {edit.expects.replace('_', ' ')}"


@pytorch_lines.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"for group in optimizer.param_groups: group['lr'] = {edit.value:g}"]


@pytorch_lines.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"lr={edit.learning_rate:g}{optimizer_arguments(edit)}"
    return [f"optimizer = torch.optim.{_OPTIMIZERS[edit.name]}(model.parameters(), {arguments})"]


@pytorch_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    nesterov = ", group['dampening'], group['nesterov'] = {:g}, 0, True" if edit.nesterov else " = {:g}"
    return [f"for group in optimizer.param_groups: group['momentum']{nesterov.format(edit.value)}"]


@pytorch_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        "# before the first step; with Adam, make it torch.optim.AdamW, which decays apart from the gradient",
        "for group in list(optimizer.param_groups):",
        "    others = [p for p in group['params'] if p.ndim <= 1]  # biases, normalization",
        "    group['params'] = [p for p in group['params'] if p.ndim > 1]",
        "    optimizer.add_param_group({**group, 'params': others, 'weight_decay': 0.0})",
        f"    group['weight_decay'] = {edit.value:g}",
    ]


@pytorch_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    return [f"torch.nn.utils.clip_grad_{edit.kind}_(model.parameters(), {edit.limit:g})  # before optimizer.step()"]


@pytorch_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(",
        f"    optimizer, factor={edit.factor:g}, patience={edit.patience}, "
        f"min_lr=[{edit.floor:g} * group['lr'] for group in optimizer.param_groups])",
        "# after each epoch:  scheduler.step(val_loss)",
    ]


@pytorch_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        "best, waited, kept = float('inf'), 0, None",
        "# after each epoch:",
        "#   if val_loss < best: best, waited, kept = val_loss, 0, copy.deepcopy(model.state_dict())",
        "#   else: waited += 1",
        f"#   if waited >= {edit.patience}: break",
        "# after the last one:  model.load_state_dict(kept)",
    ]


@pytorch_lines.register
def _(edit: e.SetLoss) -> list[str]:
    return [_PYTORCH_LOSSES[edit.name, edit.expects]]


@keras_lines.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"model.optimizer.learning_rate = {edit.value:g}"]


@keras_lines.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"learning_rate={edit.learning_rate:g}{optimizer_arguments(edit)}"
    return [f"model.optimizer = keras.optimizers.{OPTIMIZERS[edit.name]}({arguments})"]


@keras_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    return [optimizer_with(momentum=edit.value, **({"nesterov": True} if edit.nesterov else {}))]


@keras_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        optimizer_with(weight_decay=edit.value),
        "model.optimizer.exclude_from_weight_decay(",
        "    var_list=[v for v in model.trainable_variables if len(v.shape) < 2])  # biases, normalization",
    ]


@keras_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    norm, value = (edit.limit, None) if edit.kind == "norm" else (None, edit.limit)
    return [optimizer_with(global_clipnorm=norm, clipvalue=value, clipnorm=None)]


@keras_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "plateau = keras.callbacks.ReduceLROnPlateau(",
        f"    factor={edit.factor:g}, patience={edit.patience}, min_delta=0, "
        f"min_lr={edit.floor:g} * float(model.optimizer.learning_rate))",
        "# model.fit(..., callbacks=[plateau])",
    ]


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
        line = f"loss = keras.losses.{_KERAS_LOSSES[edit.name].format(edit.expects == 'logits')}"
    return [line, "# model.compile(..., loss=loss)"]
