"""Describing a model, a loss and an optimizer without running them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.describe import activation_name, layers, optimizer_info, plain_name
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.optim.parameter_ownership import ParameterOwnership
from autotrainer.records.task import LossInfo


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner = nn.Linear(3, 3)


def test_layers_in_order_of_definition() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2), nn.Softmax(1)
    )
    model[0].requires_grad_(False)
    found = layers(model)
    assert [(i.name, i.kind, i.activation, i.units, i.parameters, i.frozen, i.hidden) for i in found] == [
        ("0", "conv", "relu", 4, 0, True, True),
        ("1", "norm", "relu", 4, 8, False, True),
        ("2", "activation", "relu", None, 0, False, True),
        ("5", "dense", "softmax", 2, 10, False, False),
        ("6", "activation", "softmax", None, 0, False, False),
    ]


@pytest.mark.parametrize(
    ("module", "kind", "activation", "units"),
    [
        (nn.Linear(3, 5), "dense", "linear", 5),
        (nn.ConvTranspose1d(3, 5, 2), "conv", "linear", 5),
        (nn.LSTM(3, 5, bidirectional=True), "recurrent", "tanh", 10),
        (nn.RNN(3, 5, nonlinearity="relu"), "recurrent", "relu", 5),
        (nn.GRUCell(3, 5), "recurrent", "tanh", 5),
        (nn.Embedding(3, 5), "embedding", "linear", 5),
        (nn.LayerNorm((2, 5)), "norm", "linear", 5),
        (nn.GroupNorm(1, 5), "norm", "linear", 5),
        (nn.PReLU(), "activation", "prelu", None),
        (nn.Threshold(1.0, 0.0), "activation", "thresholded_relu", None),
        (nn.Threshold(1.0, 2.0), "activation", "threshold", None),
        (nn.Hardswish(), "activation", "hard_silu", None),
        (nn.LogSoftmax(1), "activation", "log_softmax", None),
        (Block(), "other", None, None),
    ],
)
def test_kinds(module: nn.Module, kind: str, activation: str | None, units: int | None) -> None:
    info = layers(module)[0]
    assert (info.name, info.kind) == (type(module).__name__.lower(), kind)
    assert (info.activation, info.units) == (activation, units)


def test_every_activation_of_pytorch_is_known() -> None:
    from torch.nn.modules import activation

    missing = []
    for name in activation.__all__:
        if name not in ("MultiheadAttention", "Threshold"):
            arguments: dict[str, Any] = {"lambd": 0.5} if name in ("Hardshrink", "Softshrink") else {}
            if not layers(getattr(nn, name)(**arguments)):
                missing.append(name)
    assert not missing


def test_plain_name_strips_wrappers() -> None:
    assert [
        plain_name(n) for n in ("module.a", "_orig_mod.module.a.b", "modules.a", "a._orig_mod.b", "module", "")
    ] == [
        "a",
        "a.b",
        "modules.a",
        "a.b",
        "",
        "",
    ]
    names = [info.name for info in layers(nn.DataParallel(nn.Sequential(nn.Linear(2, 2), nn.Tanh())))]
    assert names == ["0", "1"]


LOSSES = [
    (nn.CrossEntropyLoss(), "cross_entropy", "logits", "either", 1),
    (nn.NLLLoss(), "cross_entropy", "log_probabilities", "index", 1),
    (nn.BCELoss(), "binary_cross_entropy", "probabilities", "values", -1),
    (nn.BCEWithLogitsLoss(), "binary_cross_entropy", "logits", "values", -1),
    (nn.MSELoss(), "squared_error", "values", "values", -1),
    (nn.L1Loss(), "absolute_error", "values", "values", -1),
    (nn.SmoothL1Loss(), "huber", "values", "values", -1),
    (nn.KLDivLoss(), "kl_divergence", "log_probabilities", "values", -1),
    (nn.PoissonNLLLoss(), "poisson", "log_values", "values", -1),
    (nn.PoissonNLLLoss(log_input=False), "poisson", "values", "values", -1),
    (nn.MultiMarginLoss(), "hinge", "logits", "index", 1),
    (F.cross_entropy, "cross_entropy", "logits", "either", 1),
    (F.mse_loss, "squared_error", "values", "values", -1),
    (F.binary_cross_entropy_with_logits, "binary_cross_entropy", "logits", "values", -1),
    (functools.partial(F.nll_loss, reduction="sum"), "cross_entropy", "log_probabilities", "index", 1),
    (lambda a, b: a - b, "custom", "unknown", "values", -1),
    (nn.Linear(2, 2), "custom", "unknown", "values", -1),
]


@pytest.mark.parametrize(("loss", "family", "expects", "targets", "axis"), LOSSES)
def test_losses(loss: Any, family: str, expects: str, targets: str, axis: int) -> None:
    info = loss_info(loss)
    assert (info.family, info.expects, info.targets, info.class_axis) == (family, expects, targets, axis)


def test_custom_losses() -> None:
    class Smoothed(nn.CrossEntropyLoss):
        pass

    class Told(nn.Module):
        loss_info = LossInfo("told", "hinge")

    def mse_loss(a: Any, b: Any) -> Any:
        return a - b

    assert loss_info(Smoothed(reduction="sum")) == LossInfo("Smoothed", "cross_entropy", "logits", "either", 1, "sum")
    assert loss_info(Told()).family == "hinge"
    assert loss_info(mse_loss).family == "custom"
    assert loss_info(None).family == "none"
    assert loss_info(functools.partial(F.mse_loss, reduction="sum")).reduction == "sum"


def test_optimizers() -> None:
    parameters = list(nn.Linear(2, 2).parameters())
    sgd = optimizer_info(torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01))
    assert (sgd.name, sgd.learning_rate, sgd.momentum, sgd.weight_decay) == ("sgd", 0.1, 0.9, 0.01)
    adam = optimizer_info(torch.optim.AdamW(parameters, torch.tensor(0.5)))
    assert (adam.name, adam.learning_rate, adam.momentum) == ("adamw", 0.5, 0.0)
    assert math.isnan(optimizer_info(None).learning_rate)


class Swish(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * x.sigmoid()


class Exponential(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.exp()


class Softmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * x).softmax(-1)


@pytest.mark.parametrize(("module", "expected"), [(Swish(), "silu"), (Exponential(), "exponential"), (Softmax(), None)])
def test_custom_activation_counts_by_name_unless_it_holds_tensors(module: nn.Module, expected: str | None) -> None:
    assert activation_name(module) == expected


@pytest.mark.parametrize(
    ("loss", "weighted"),
    [
        (nn.CrossEntropyLoss(), False),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), False),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 9.0])), True),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor([9.0])), True),
        (functools.partial(F.cross_entropy, weight=torch.tensor([1.0, 9.0])), True),
        (F.cross_entropy, False),
    ],
)
def test_class_weights(loss: Any, weighted: bool) -> None:
    assert loss_info(loss).weighted is weighted


def test_label_smoothing() -> None:
    losses = (nn.CrossEntropyLoss(label_smoothing=0.1), functools.partial(F.cross_entropy, label_smoothing=0.1))
    assert [loss_info(loss).smoothed for loss in (*losses, nn.CrossEntropyLoss())] == [True, True, False]


def test_group_with_rate_zero_does_not_set_the_learning_rate() -> None:
    first, last = nn.Linear(2, 2), nn.Linear(2, 1)
    model = nn.Sequential(first, last)
    optimizer = torch.optim.SGD([{"params": first.parameters(), "lr": 0.0}, {"params": last.parameters()}], 0.1)
    assert optimizer_info(optimizer).learning_rate == 0.1
    owned = ParameterOwnership(model, [optimizer])
    told = owned.annotate(layers(model))
    assert [layer.frozen for layer in told] == [True, False]
    optimizer.param_groups[0]["lr"] = 0.1
    told = owned.annotate(told)
    assert [layer.frozen for layer in told] == [False, False]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    assert [layer.frozen for layer in owned.annotate(told)] == [False, False], "a schedule has ended, nothing is meant"
    assert optimizer_info(optimizer).learning_rate == 0.0


def test_a_layer_that_is_unfrozen_or_frozen_in_the_training_is_so_from_then_on() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), 0.1)
    owned = ParameterOwnership(model, [optimizer])
    described = owned.annotate(layers(model))
    assert [layer.frozen for layer in described] == [True, False]
    model[0].requires_grad_(True)
    optimizer.add_param_group({"params": list(model[0].parameters())})
    described = owned.annotate(described)
    assert [layer.frozen for layer in described] == [False, False]
    model[1].requires_grad_(False)
    assert [layer.frozen for layer in owned.annotate(described)] == [False, True]


@pytest.mark.parametrize("copied", [True, False])
def test_a_frozen_copy_of_a_trained_layer_is_no_forgotten_one(copied: bool) -> None:
    online, target = nn.Linear(32, 32), nn.Linear(32, 32)
    if copied:
        target.load_state_dict(online.state_dict())
    model = nn.ModuleDict({"online": online, "target": target.requires_grad_(False)})
    optimizer = torch.optim.SGD(online.parameters(), 0.1)
    owned = ParameterOwnership(model, [optimizer])
    online(torch.ones(2, 32)).sum().backward()
    optimizer.step()  # they part, and are described after it
    described = owned.annotate(layers(model))
    assert [layer.start for layer in described] == ["", "" if copied else "drawn"]


class Written(nn.Module):
    """Calls its activation as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh())

    def forward(self, x: torch.Tensor) -> Any:
        return self.rest(F.gelu(self.first(x)))


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.parametrize("make", [Written, lambda: torch.jit.trace(Written(), torch.zeros(2, 3))])
def test_what_follows_a_layer_in_a_forward_method_is_unknown(make: Callable[[], nn.Module]) -> None:
    found = [info.activation for info in layers(make()) if info.kind != "activation"]
    assert found[0] is None
    assert found[1:] in (["linear", "tanh"], [None, None])  # a traced module has no class
