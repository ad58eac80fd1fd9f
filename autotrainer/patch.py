"""A repair plan in words and as lines to paste into one's own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch

from autotrainer import edits as e
from autotrainer.plan import RepairPlan

__all__ = ["describe", "lines", "words"]

_INITIALIZERS = {"he_uniform": "He uniform", "lecun_normal": "LeCun normal", "glorot_uniform": "Glorot uniform"}
_TORCH_MODULES = {
    "linear": "nn.Identity()",
    "relu": "nn.ReLU()",
    "selu": "nn.SELU()",
    "elu": "nn.ELU()",
    "leaky_relu": "nn.LeakyReLU()",
    "thresholded_relu": "nn.Threshold(1.0, 0.0)",
    "gelu": "nn.GELU()",
    "tanh": "nn.Tanh()",
    "sigmoid": "nn.Sigmoid()",
    "softmax": "nn.Softmax(dim=-1)",
}
_TORCH_INITIALIZERS = {
    "he_uniform": "nn.init.kaiming_uniform_(layer.weight, nonlinearity='relu')",
    "he_normal": "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    "lecun_normal": "nn.init.kaiming_normal_(layer.weight, nonlinearity='linear')",
    "glorot_uniform": "nn.init.xavier_uniform_(layer.weight)",
    "glorot_normal": "nn.init.xavier_normal_(layer.weight)",
    "orthogonal": "nn.init.orthogonal_(layer.weight)",
}
_TORCH_OPTIMIZERS = {
    "sgd": "SGD",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "adamax": "Adamax",
    "rmsprop": "RMSprop",
}
_KERAS_OPTIMIZERS = {**_TORCH_OPTIMIZERS, "nadam": "Nadam"}
_TORCH_LOSSES = {
    ("cross_entropy", "logits"): "loss_fn = nn.CrossEntropyLoss()  # class indices, or one-hot rows as floats",
    ("cross_entropy", "probabilities"): (
        "loss_fn = lambda p, y: nn.functional.nll_loss(p.clamp_min(1e-7).log(), y)  # class indices"
    ),
    ("cross_entropy", "log_probabilities"): "loss_fn = nn.NLLLoss()  # class indices",
    ("binary_cross_entropy", "logits"): "loss_fn = nn.BCEWithLogitsLoss()  # floats of the shape of the outputs",
    ("binary_cross_entropy", "probabilities"): "loss_fn = nn.BCELoss()  # floats of the shape of the outputs",
    ("signed_logistic", "logits"): "loss_fn = nn.SoftMarginLoss()  # targets in {-1, 1}, of the shape of the outputs",
    ("squared_error", "values"): "loss_fn = nn.MSELoss()  # targets of the shape of the outputs",
    ("absolute_error", "values"): "loss_fn = nn.L1Loss()  # targets of the shape of the outputs",
}
_KERAS_LOSSES = {
    "cross_entropy": "SparseCategoricalCrossentropy(from_logits={})  # CategoricalCrossentropy for one-hot targets",
    "binary_cross_entropy": "BinaryCrossentropy(from_logits={})",
    "squared_error": "MeanSquaredError()",
    "absolute_error": "MeanAbsoluteError()",
}


def describe(plan: RepairPlan) -> str:
    """Return what to change in one's own code: what is to be known first, then each change in words and lines."""
    text = []
    if plan.problems:
        text.append(f"Against {', '.join(plan.problems)}:")
    if plan.changes:
        text.append(f"Know first: this changes the {', '.join(plan.changes)} of the training.")
    for number, edit in enumerate(plan.edits, 1):
        text.append(f"{number}. {words(edit)}")
        text.extend(f"       {line}" for line in lines(edit, plan.framework))
    return "\n".join(text)


@singledispatch
def words(edit: e.Edit) -> str:
    """Return an edit as one sentence without a full stop."""
    raise TypeError(f"no words for {type(edit).__name__}")


@singledispatch
def _torch(edit: e.Edit) -> Sequence[str]:
    raise TypeError(f"no lines for {type(edit).__name__}")


@singledispatch
def _keras(edit: e.Edit) -> Sequence[str]:
    raise TypeError(f"no lines for {type(edit).__name__}")


def lines(edit: e.Edit, framework: str) -> list[str]:
    """Return an edit as lines of code.

    Args:
        edit: The edit.
        framework: ``pytorch`` or ``keras3``; other backends get no lines.
    """
    writers: Mapping[str, Callable[[e.Edit], Sequence[str]]] = {"pytorch": _torch, "keras3": _keras}
    writer = writers.get(framework)
    return list(writer(edit)) if writer is not None else []


def _names(layers: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in layers[:6])
    return shown + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")


def _each(layers: Sequence[str]) -> str:
    return "for name in (" + ", ".join(repr(name) for name in layers) + ",):"


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


@words.register
def _(edit: e.SetLearningRate) -> str:
    return f"learning rate {edit.value:g}"


@_torch.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"for group in optimizer.param_groups: group['lr'] = {edit.value:g}"]


@_keras.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"model.optimizer.learning_rate = {edit.value:g}"]


@words.register
def _(edit: e.SwapOptimizer) -> str:
    momentum = f", momentum {edit.momentum:g}" if edit.momentum else ""
    return f"optimizer {_KERAS_OPTIMIZERS[edit.name]}, learning rate {edit.learning_rate:g}{momentum}"


def _optimizer_arguments(edit: e.SwapOptimizer) -> str:
    momentum = f", momentum={edit.momentum:g}" if edit.momentum else ""
    decay = f", weight_decay={edit.weight_decay:g}" if edit.weight_decay else ""
    return momentum + decay


@_torch.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"lr={edit.learning_rate:g}{_optimizer_arguments(edit)}"
    return [f"optimizer = torch.optim.{_TORCH_OPTIMIZERS[edit.name]}(model.parameters(), {arguments})"]


@_keras.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"learning_rate={edit.learning_rate:g}{_optimizer_arguments(edit)}"
    return [f"model.compile(optimizer=keras.optimizers.{_KERAS_OPTIMIZERS[edit.name]}({arguments}), loss=...)"]


@words.register
def _(edit: e.SetMomentum) -> str:
    return f"momentum {edit.value:g} in SGD"


@_torch.register
def _(edit: e.SetMomentum) -> list[str]:
    return [f"optimizer = torch.optim.SGD(model.parameters(), lr=..., momentum={edit.value:g})"]


@_keras.register
def _(edit: e.SetMomentum) -> list[str]:
    return [f"keras.optimizers.SGD(learning_rate=..., momentum={edit.value:g})"]


@words.register
def _(edit: e.SetWeightDecay) -> str:
    return f"weight decay {edit.value:g} on weight matrices, not on biases and normalization"


@_torch.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        f"groups = [{{'params': [p for p in model.parameters() if p.ndim > 1], 'weight_decay': {edit.value:g}}},",
        "          {'params': [p for p in model.parameters() if p.ndim <= 1], 'weight_decay': 0.0}]",
        "optimizer = torch.optim.AdamW(groups, lr=...)",
    ]


@_keras.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        f"optimizer = keras.optimizers.AdamW(learning_rate=..., weight_decay={edit.value:g})",
        "optimizer.exclude_from_weight_decay(var_names=['bias', 'gamma', 'beta'])",
    ]


@words.register
def _(edit: e.ClipGradients) -> str:
    return f"gradients clipped by {edit.kind} to {edit.limit:g} before each step"


@_torch.register
def _(edit: e.ClipGradients) -> list[str]:
    return [f"torch.nn.utils.clip_grad_{edit.kind}_(model.parameters(), {edit.limit:g})  # before optimizer.step()"]


@_keras.register
def _(edit: e.ClipGradients) -> list[str]:
    argument = "global_clipnorm" if edit.kind == "norm" else "clipvalue"
    return [f"keras.optimizers.Adam(..., {argument}={edit.limit:g})  # the same argument in every optimizer"]


@words.register
def _(edit: e.ReduceOnPlateau) -> str:
    return (
        f"learning rate × {edit.factor:g} after {edit.patience} epochs without progress, "
        f"not below {edit.floor:g} of the initial one"
    )


@_torch.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(",
        f"    optimizer, factor={edit.factor:g}, patience={edit.patience}, min_lr={edit.floor:g} * initial_rate)",
        "scheduler.step(val_loss)  # after each epoch",
    ]


@_keras.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "callbacks=[keras.callbacks.ReduceLROnPlateau(",
        f"    factor={edit.factor:g}, patience={edit.patience}, min_lr={edit.floor:g} * initial_rate)]",
    ]


@words.register
def _(edit: e.SetBatchSize) -> str:
    return f"batches of {edit.size} samples"


@_torch.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"DataLoader(..., batch_size={edit.size}, shuffle=True)"]


@_keras.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"model.fit(..., batch_size={edit.size})"]


@words.register
def _(edit: e.StopEarly) -> str:
    return f"stop after {edit.patience} epochs without a better validation loss, best weights restored"


@_torch.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        "# after each epoch:",
        "if val_loss < best: best, waited, kept = val_loss, 0, copy.deepcopy(model.state_dict())",
        "else: waited += 1",
        f"if waited >= {edit.patience}: model.load_state_dict(kept); break",
    ]


@_keras.register
def _(edit: e.StopEarly) -> list[str]:
    return [f"callbacks=[keras.callbacks.EarlyStopping(patience={edit.patience}, restore_best_weights=True)]"]


@words.register
def _(edit: e.SetLoss) -> str:
    return f"loss: {edit.name.replace('_', ' ')} on {edit.expects.replace('_', ' ')}"


@_torch.register
def _(edit: e.SetLoss) -> list[str]:
    return [_TORCH_LOSSES[edit.name, edit.expects]]


@_keras.register
def _(edit: e.SetLoss) -> list[str]:
    if edit.name == "signed_logistic":
        return ["loss = lambda y, z: keras.ops.mean(keras.ops.softplus(-y * z))  # targets in {-1, 1}"]
    return [f"loss = keras.losses.{_KERAS_LOSSES[edit.name].format(edit.expects == 'logits')}"]


@words.register
def _(edit: e.SetOutputActivation) -> str:
    return "no activation on the output" if edit.to == "linear" else f"output activation {edit.to}"


@_torch.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in place of the last activation, or behind the last layer:  {_TORCH_MODULES[edit.to]}"]


@_keras.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"layers.Dense(..., activation={edit.to!r})  # the last layer"]


@words.register
def _(edit: e.SwapActivation) -> str:
    drawn = f", weights redrawn ({_INITIALIZERS[e.INITIALIZER[edit.to]]})" if edit.reinitialize else ""
    return f"{_names(edit.layers)}: activation {edit.to}{drawn}"


@_torch.register
def _(edit: e.SwapActivation) -> list[str]:
    scheme = e.INITIALIZER[edit.to]
    code = [f"# the activation of these layers:  {_TORCH_MODULES[edit.to]}"]
    if edit.reinitialize:
        code += [
            _each(edit.layers),
            "    layer = model.get_submodule(name)",
            f"    if hasattr(layer, 'weight'): {_TORCH_INITIALIZERS[scheme]}; nn.init.zeros_(layer.bias)",
        ]
    return code


@_keras.register
def _(edit: e.SwapActivation) -> list[str]:
    scheme = e.INITIALIZER[edit.to]
    initializer = f", kernel_initializer={scheme!r}" if edit.reinitialize else ""
    return [f"layers.Dense(..., activation={edit.to!r}{initializer})  # {', '.join(edit.layers)}"]


@words.register
def _(edit: e.Reinitialize) -> str:
    return f"{_names(edit.layers)}: weights redrawn ({edit.scheme.replace('_', ' ')}), biases zero"


@_torch.register
def _(edit: e.Reinitialize) -> list[str]:
    return [
        _each(edit.layers),
        "    layer = model.get_submodule(name)",
        f"    {_TORCH_INITIALIZERS[edit.scheme]}; nn.init.zeros_(layer.bias)",
    ]


@_keras.register
def _(edit: e.Reinitialize) -> list[str]:
    return [f"layers.Dense(..., kernel_initializer={edit.scheme!r})  # {', '.join(edit.layers)}"]


@words.register
def _(edit: e.InsertNormalization) -> str:
    return f"{_names(edit.layers)}: {edit.kind} normalization between layer and activation"


@_torch.register
def _(edit: e.InsertNormalization) -> list[str]:
    module = {"batch": "nn.BatchNorm1d(units)", "layer": "nn.LayerNorm(units)", "group": "nn.GroupNorm(8, units)"}
    return [f"# behind {', '.join(edit.layers)}:  {module[edit.kind]}  (BatchNorm2d behind convolutions)"]


@_keras.register
def _(edit: e.InsertNormalization) -> list[str]:
    layer = {"batch": "BatchNormalization()", "layer": "LayerNormalization()", "group": "GroupNormalization(8)"}
    return [f"# behind {', '.join(edit.layers)}, before their activation:  layers.{layer[edit.kind]}"]


@words.register
def _(edit: e.AddDropout) -> str:
    return f"{_names(edit.layers)}: dropout {edit.rate:g} behind the activation"


@_torch.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  nn.Dropout({edit.rate:g})"]


@_keras.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  layers.Dropout({edit.rate:g})"]


@words.register
def _(edit: e.AddInputNoise) -> str:
    return f"Gaussian noise on the inputs while training, {edit.std:g} of their standard deviation"


@_torch.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"x = x + {edit.std:g} * x.std() * torch.randn_like(x)  # in training only"]


@_keras.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"layers.GaussianNoise({edit.std:g} * x_train.std())  # behind the input"]


@words.register
def _(edit: e.ScaleInputs) -> str:
    return "inputs standardized inside the model with mean and standard deviation of the training data"


@_torch.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(0)) / x_train.std(0)  # the numbers of the training data, everywhere"]
    return [
        f"mean, std = torch.tensor({_numbers(edit.mean)}), torch.tensor({_numbers(edit.std)})",
        "x = (x - mean) / std  # everywhere the model is used",
    ]


@_keras.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["scaling = layers.Normalization(); scaling.adapt(x_train)  # behind the input"]
    return [
        f"mean, std = np.array({_numbers(edit.mean)}), np.array({_numbers(edit.std)})",
        "layers.Normalization(mean=mean, variance=std**2)  # behind the input",
    ]
