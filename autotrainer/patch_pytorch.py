"""Edits as lines of PyTorch code.

Lines that are no comments run as they stand, behind the making of ``model`` and ``optimizer``; ``stop_early`` and
clipping inside the loop. What needs the user's own hand is a comment.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch

from autotrainer import edits as e
from autotrainer.patch_words import OPTIMIZERS, numbers, optimizer_arguments

__all__ = ["pytorch_lines"]

_OPTIMIZERS = {**OPTIMIZERS, "nadam": "NAdam"}
_MODULES = {
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
_INITIALIZERS = {
    "he_uniform": "nn.init.kaiming_uniform_({}, nonlinearity='relu')",
    "he_normal": "nn.init.kaiming_normal_({}, nonlinearity='relu')",
    "lecun_normal": "nn.init.kaiming_normal_({}, nonlinearity='linear')",
    "glorot_uniform": "nn.init.xavier_uniform_({})",
    "glorot_normal": "nn.init.xavier_normal_({})",
    "orthogonal": "nn.init.orthogonal_({})",
}


def _elementwise(name: str) -> str:
    """Return the line of a loss that takes targets of the form of the outputs, whatever the form as given."""
    return f"loss_fn = lambda z, y: nn.functional.{name}(z, y.reshape(z.shape).to(z))"


_LOSSES = {
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


@singledispatch
def pytorch_lines(edit: e.Edit) -> list[str]:
    """Return an edit as lines of PyTorch code."""
    raise TypeError(f"no lines for {type(edit).__name__}")


def _each(layers: Sequence[str]) -> str:
    return "for name in (" + ", ".join(repr(name) for name in layers) + ",):"


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
        f"min_lr={edit.floor:g} * optimizer.param_groups[0]['lr'])",
        "# after each epoch:  scheduler.step(val_loss)",
    ]


@pytorch_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [
        "train_loader = torch.utils.data.DataLoader("
        f"train_loader.dataset, batch_size={edit.size}, shuffle=True)  # with the options that yours has"
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
    return [_LOSSES[edit.name, edit.expects]]


@pytorch_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in place of the last activation, or behind the last layer:  {_MODULES[edit.to]}"]


@pytorch_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    module = _MODULES[edit.to]
    code = [
        f"# {module} also where forward calls these layers' activation as a function",
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        f"    if not hasattr(layer, 'weight'): setattr(model.get_submodule(parent), child, {module})",
    ]
    if edit.reinitialize:
        draw = _INITIALIZERS[e.initializer_for(edit.to)].format("layer.weight")
        code += [
            "    elif layer.weight is not None and layer.weight.ndim > 1:",
            f"        {draw}",
            "        if layer.bias is not None: nn.init.zeros_(layer.bias)",
        ]
    return code


@pytorch_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [
        _each(edit.layers),
        "    for p in model.get_submodule(name).parameters(recurse=False):",
        f"        {_INITIALIZERS[edit.scheme].format('p')} if p.ndim > 1 else nn.init.zeros_(p)",
    ]


@pytorch_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    flat = {"batch": "nn.BatchNorm1d(units)", "layer": "nn.LayerNorm(units)"}.get(edit.kind, "nn.GroupNorm(8, units)")
    deep = {"batch": "nn.BatchNorm2d(units)", "layer": "nn.GroupNorm(1, units)"}.get(edit.kind, flat)
    either = flat if flat == deep else f"{flat} if hasattr(layer, 'out_features') else {deep}"
    return [
        "# before the optimizer is made"
        + ("; BatchNorm1d or 3d behind Conv1d or Conv3d" if edit.kind == "batch" else ""),
        _each(edit.layers),
        "    layer, (parent, _, child) = model.get_submodule(name), name.rpartition('.')",
        "    units = getattr(layer, 'out_features', None) or layer.out_channels",
        f"    norm = {either}",
        "    setattr(model.get_submodule(parent), child, nn.Sequential(layer, norm))",
    ]


@pytorch_lines.register
def _(edit: e.AddDropout) -> list[str]:
    rate = f"{edit.rate:g}"
    return [f"# behind the activation of {', '.join(edit.layers)}:  nn.Dropout({rate})  (nn.AlphaDropout behind SELU)"]


@pytorch_lines.register
def _(edit: e.AddInputNoise) -> list[str]:
    return [f"x = x + {edit.std:g} * x.std() * torch.randn_like(x)  # in training only"]


@pytorch_lines.register
def _(edit: e.ScaleInputs) -> list[str]:
    if not edit.mean:
        return ["x = (x - x_train.mean(0)) / x_train.std(0)  # the numbers of the training data, everywhere"]
    return [
        f"mean, std = torch.tensor({numbers(edit.mean)}), torch.tensor({numbers(edit.std)})",
        "x = (x - mean) / std  # everywhere the model is used",
    ]
