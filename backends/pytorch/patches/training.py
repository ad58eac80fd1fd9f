"""Lines of PyTorch code for edits of how a training goes."""

from __future__ import annotations

from autotrainer import edits as e
from autotrainer.adapter.patch_code import optimizer_arguments
from autotrainer.backends.pytorch.patches.base import patch_lines
from autotrainer.edits import OPTIMIZERS

_OPTIMIZERS = {**OPTIMIZERS, "nadam": "NAdam"}


def _elementwise(name: str) -> str:
    """Return the line of a loss that brings targets of any form into the form of the outputs."""
    return f"loss_fn = lambda z, y: nn.functional.{name}(z, y.reshape(z.shape).to(z))"


_SQUARED, _ABSOLUTE = _elementwise("mse_loss"), _elementwise("l1_loss")
_SIGNED = _elementwise("soft_margin_loss") + "  # targets in {-1, 1}"
_SCORES = {"logits": "z", "probabilities": "z.clamp_min(1e-7).log()", "log_probabilities": "z"}
"""Logits for a cross-entropy, from outputs: a softmax leaves log-probabilities as they are."""
_LOSSES = {
    ("binary_cross_entropy", "logits"): _elementwise("binary_cross_entropy_with_logits"),
    ("binary_cross_entropy", "probabilities"): _elementwise("binary_cross_entropy"),
    ("signed_logistic", "logits"): _SIGNED,
    ("signed_logistic", "values"): _SIGNED,
    ("signed_logistic", "probabilities"): (
        "loss_fn = lambda p, y: nn.functional.binary_cross_entropy(p, (y.reshape(p.shape).to(p) + 1) / 2)"
        "  # targets in {-1, 1}"
    ),
    **dict.fromkeys([("squared_error", expects) for expects in ("values", "logits", "probabilities")], _SQUARED),
    **dict.fromkeys([("absolute_error", expects) for expects in ("values", "logits", "probabilities")], _ABSOLUTE),
}


@patch_lines.register
def _(edit: e.SetLearningRate) -> list[str]:
    return [f"for group in optimizer.param_groups: group['lr'] = {edit.value:g}"]


@patch_lines.register
def _(edit: e.StandardStep) -> list[str]:
    return [
        "# in the loop:  optimizer.zero_grad(); loss = loss_fn(model(x), y); loss.backward(); optimizer.step()",
    ]


@patch_lines.register
def _(edit: e.SwapOptimizer) -> list[str]:
    arguments = f"lr={edit.learning_rate:g}{optimizer_arguments(edit)}"
    return [f"optimizer = torch.optim.{_OPTIMIZERS[edit.name]}(model.parameters(), {arguments})"]


@patch_lines.register
def _(edit: e.SetMomentum) -> list[str]:
    nesterov = ", group['dampening'], group['nesterov'] = {:g}, 0, True" if edit.nesterov else " = {:g}"
    return [f"for group in optimizer.param_groups: group['momentum']{nesterov.format(edit.value)}"]


@patch_lines.register
def _(edit: e.SetWeightDecay) -> list[str]:
    return [
        "# before the first step; with Adam, make it torch.optim.AdamW, whose decay is decoupled from the gradient",
        "for group in list(optimizer.param_groups):",
        "    others = [p for p in group['params'] if p.ndim <= 1]  # biases, normalization",
        "    group['params'] = [p for p in group['params'] if p.ndim > 1]",
        "    optimizer.add_param_group({**group, 'params': others, 'weight_decay': 0.0})",
        f"    group['weight_decay'] = {edit.value:g}",
    ]


@patch_lines.register
def _(edit: e.ClipGradients) -> list[str]:
    return [f"torch.nn.utils.clip_grad_{edit.kind}_(model.parameters(), {edit.limit:g})  # before optimizer.step()"]


@patch_lines.register
def _(edit: e.ReduceOnPlateau) -> list[str]:
    return [
        "scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(",
        f"    optimizer, factor={edit.factor:g}, patience={edit.patience}, "
        f"min_lr=[{edit.floor:g} * group['lr'] for group in optimizer.param_groups])",
        "# after each epoch:  scheduler.step(val_loss)",
    ]


@patch_lines.register
def _(edit: e.StopEarly) -> list[str]:
    return [
        "best, waited, kept = float('inf'), 0, None",
        "# after each epoch:",
        "#   if val_loss < best: best, waited, kept = val_loss, 0, copy.deepcopy(model.state_dict())",
        "#   else: waited += 1",
        f"#   if waited >= {edit.patience}: break",
        "# after the last one:  model.load_state_dict(kept)",
    ]


@patch_lines.register
def _(edit: e.SetLoss) -> list[str]:
    if edit.name == "cross_entropy":
        return [
            "def loss_fn(z, y):  # y: class indices of any type, also in a column, or one-hot rows",
            "    if z.ndim > 2 and z[:, 0].shape != y.shape == z.shape[:-1]:  # classes in the last dimension",
            "        z = z.movedim(-1, 1)  # PyTorch expects them in dimension 1",
            "    y = y.to(z) if y.shape == z.shape else y.reshape(z[:, 0].shape).long()",
            f"    return nn.functional.cross_entropy({_SCORES[edit.expects]}, y)",
        ]
    return [_LOSSES[edit.name, edit.expects]]
