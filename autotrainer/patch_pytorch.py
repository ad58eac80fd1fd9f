"""Edits as lines of PyTorch code."""

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
    "he_uniform": "nn.init.kaiming_uniform_(layer.weight, nonlinearity='relu')",
    "he_normal": "nn.init.kaiming_normal_(layer.weight, nonlinearity='relu')",
    "lecun_normal": "nn.init.kaiming_normal_(layer.weight, nonlinearity='linear')",
    "glorot_uniform": "nn.init.xavier_uniform_(layer.weight)",
    "glorot_normal": "nn.init.xavier_normal_(layer.weight)",
    "orthogonal": "nn.init.orthogonal_(layer.weight)",
}
_LOSSES = {
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
    return [f"optimizer = torch.optim.SGD(model.parameters(), lr=..., momentum={edit.value:g})"]


@pytorch_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        f"groups = [{{'params': [p for p in model.parameters() if p.ndim > 1], 'weight_decay': {edit.value:g}}},",
        "          {'params': [p for p in model.parameters() if p.ndim <= 1], 'weight_decay': 0.0}]",
        "optimizer = torch.optim.AdamW(groups, lr=...)",
    ]


@pytorch_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    return [f"torch.nn.utils.clip_grad_{edit.kind}_(model.parameters(), {edit.limit:g})  # before optimizer.step()"]


@pytorch_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(",
        f"    optimizer, factor={edit.factor:g}, patience={edit.patience}, min_lr={edit.floor:g} * initial_rate)",
        "scheduler.step(val_loss)  # after each epoch",
    ]


@pytorch_lines.register
def _(edit: e.SetBatchSize) -> list[str]:
    return [f"DataLoader(..., batch_size={edit.size}, shuffle=True)"]


@pytorch_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        "# after each epoch:",
        "if val_loss < best: best, waited, kept = val_loss, 0, copy.deepcopy(model.state_dict())",
        "else: waited += 1",
        f"if waited >= {edit.patience}: model.load_state_dict(kept); break",
    ]


@pytorch_lines.register
def _(edit: e.SetLoss) -> list[str]:
    return [_LOSSES[edit.name, edit.expects]]


@pytorch_lines.register
def _(edit: e.SetOutputActivation) -> list[str]:
    return [f"# in place of the last activation, or behind the last layer:  {_MODULES[edit.to]}"]


@pytorch_lines.register
def _(edit: e.SwapActivation) -> list[str]:
    scheme = e.initializer_for(edit.to)
    code = [f"# the activation of these layers:  {_MODULES[edit.to]}"]
    if edit.reinitialize:
        code += [
            _each(edit.layers),
            "    layer = model.get_submodule(name)",
            f"    if hasattr(layer, 'weight'): {_INITIALIZERS[scheme]}; nn.init.zeros_(layer.bias)",
        ]
    return code


@pytorch_lines.register
def _(edit: e.Reinitialize) -> list[str]:
    return [
        _each(edit.layers),
        "    layer = model.get_submodule(name)",
        f"    {_INITIALIZERS[edit.scheme]}; nn.init.zeros_(layer.bias)",
    ]


@pytorch_lines.register
def _(edit: e.InsertNormalization) -> list[str]:
    module = {"batch": "nn.BatchNorm1d(units)", "layer": "nn.LayerNorm(units)", "group": "nn.GroupNorm(8, units)"}
    return [f"# behind {', '.join(edit.layers)}:  {module[edit.kind]}  (BatchNorm2d behind convolutions)"]


@pytorch_lines.register
def _(edit: e.AddDropout) -> list[str]:
    return [f"# behind the activation of {', '.join(edit.layers)}:  nn.Dropout({edit.rate:g})"]


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
