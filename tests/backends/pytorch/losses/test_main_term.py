"""The term of a loss with targets: loss functions and expressions, alone and beside other terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autotrainer.backends.pytorch.losses.main_term import MainTerm, MainTerms, main_term
from autotrainer.backends.pytorch.losses.returned_tensors import returned_tensors
from autotrainer.backends.pytorch.model.loss_kinds import loss_info

ROWS, CLASSES = 12, 3
VALUES = torch.linspace(-2, 3, ROWS * CLASSES).reshape(ROWS, CLASSES).sin()
COLUMN = VALUES[:, :1]
CLASS = torch.arange(ROWS) % CLASSES
BINARY = (torch.arange(ROWS)[:, None] % 2).float()
ONE_HOT = F.one_hot(CLASS, CLASSES).float()

Loss = Callable[[Tensor], Tensor]


def outputs(width: int = CLASSES) -> Tensor:
    weights = torch.linspace(-1, 1, 4 * width, requires_grad=True).reshape(4, width)
    return torch.linspace(0, 2, ROWS * 4).reshape(ROWS, 4).cos() @ weights


def read(loss: Loss, width: int) -> tuple[MainTerm | None, Tensor]:
    made = outputs(width)
    return main_term(loss(made), returned_tensors(made)), made.detach()


@pytest.mark.parametrize(
    ("loss", "family", "reduction", "targets"),
    [
        pytest.param(lambda p: (p - VALUES).pow(2).mean(), "squared_error", "mean", VALUES, id="power"),
        pytest.param(lambda p: torch.sum((VALUES - p) ** 2), "squared_error", "sum", VALUES, id="sum"),
        pytest.param(lambda p: torch.square(p - VALUES).mean(), "squared_error", "mean", VALUES, id="square"),
        pytest.param(lambda p: ((p - VALUES) * (p - VALUES)).mean(), "squared_error", "mean", VALUES, id="product"),
        pytest.param(
            lambda p: ((p - VALUES) ** 2).sum() / VALUES.numel(), "squared_error", "mean", VALUES, id="divided"
        ),
        pytest.param(lambda p: ((p - VALUES) ** 2).sum(1).mean(), "squared_error", None, VALUES, id="sum over columns"),
        pytest.param(lambda p: 0.5 * ((p - VALUES) ** 2).mean(), "squared_error", None, VALUES, id="half"),
        pytest.param(lambda p: (0.5 * (p - VALUES) ** 2).mean(), "squared_error", None, VALUES, id="half of each"),
        pytest.param(lambda p: ((p - VALUES) ** 2).mean().sqrt(), "squared_error", None, VALUES, id="root"),
        pytest.param(lambda p: torch.norm(p - VALUES), "squared_error", None, VALUES, id="norm"),
        pytest.param(lambda p: ((p.T - VALUES.T) ** 2).mean(), "squared_error", "mean", VALUES.T, id="transposed"),
        pytest.param(
            lambda p: ((p[:, -1] - VALUES[:, -1]) ** 2).mean(), "squared_error", "mean", VALUES[:, -1], id="cut"
        ),
        pytest.param(lambda p: (p - VALUES).abs().mean(), "absolute_error", "mean", VALUES, id="absolute"),
        pytest.param(lambda p: F.l1_loss(p, VALUES), "absolute_error", "mean", VALUES, id="l1_loss"),
        pytest.param(lambda p: F.l1_loss(p, ONE_HOT), "absolute_error", "mean", ONE_HOT, id="whole numbers"),
        pytest.param(
            lambda p: -p.log_softmax(1)[range(ROWS), CLASS].mean(), "cross_entropy", "mean", CLASS, id="indexed"
        ),
        pytest.param(
            lambda p: -p.softmax(1).log().gather(1, CLASS[:, None]).mean(), "cross_entropy", "mean", CLASS, id="gather"
        ),
        pytest.param(
            lambda p: -p.log_softmax(-1).gather(-1, CLASS[:, None]).mean(), "cross_entropy", "mean", CLASS, id="last"
        ),
        pytest.param(
            lambda p: -(ONE_HOT * p.log_softmax(1)).sum(1).mean(), "cross_entropy", "mean", ONE_HOT, id="one-hot"
        ),
        pytest.param(lambda p: F.cross_entropy(p, ONE_HOT), "cross_entropy", "mean", ONE_HOT, id="probabilities"),
    ],
)
def test_losses_that_are_written_out(loss: Loss, family: str, reduction: str | None, targets: Tensor) -> None:
    term, made = read(loss, CLASSES)
    assert term is not None
    info = loss_info(term.function)
    assert (info.family, info.composite) == (family, False)
    assert info.weighted == (reduction is None)
    assert reduction is None or info.reduction == reduction
    assert torch.allclose(term.targets, targets)
    if family == "cross_entropy":
        assert torch.allclose(term.outputs, made.log_softmax(1))
    elif targets.shape == made.shape:
        assert torch.allclose(term.outputs, made)
    assert term.activation == ("log_softmax" if family == "cross_entropy" else None)
    assert info.expects == ("log_probabilities" if family == "cross_entropy" else "values")
    if not info.weighted and term.function.func is not F.cross_entropy:
        assert term.function(term.outputs, term.targets) == pytest.approx(float(loss(made)), rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "targets", "activation"),
    [
        pytest.param(lambda p: ((p.squeeze() - COLUMN[:, 0]) ** 2).mean(), COLUMN[:, 0], None, id="squeezed"),
        pytest.param(lambda p: ((p.sigmoid() - BINARY) ** 2).mean(), BINARY, "sigmoid", id="sigmoid afterwards"),
        pytest.param(
            lambda p: -(BINARY * p.sigmoid().log() + (1 - BINARY) * (1 - p.sigmoid()).log()).mean(),
            BINARY,
            "sigmoid",
            id="binary cross-entropy",
        ),
        pytest.param(
            lambda p: -((1 - BINARY) * (1 - p.sigmoid() + 1e-7).log() + BINARY * (p.sigmoid() + 1e-7).log()).sum(),
            BINARY,
            "sigmoid",
            id="binary cross-entropy, the complement first",
        ),
    ],
)
def test_losses_of_one_column(loss: Loss, targets: Tensor, activation: str | None) -> None:
    term, made = read(loss, 1)
    assert term is not None
    assert term.activation == activation
    assert torch.allclose(term.targets, targets, atol=1e-6)
    assert torch.allclose(term.outputs, made.squeeze() if activation is None else made.sigmoid())


@pytest.mark.parametrize("targets", [CLASS, ONE_HOT], ids=["indexed", "one-hot"])
def test_activations_that_are_taken_for_logits(targets: Tensor) -> None:
    def loss(made: Tensor) -> Tensor:
        logs = made.softmax(1).log_softmax(1)
        return -logs[range(ROWS), CLASS].mean() if targets is CLASS else -(ONE_HOT * logs).sum(1).mean()

    term, made = read(loss, CLASSES)
    assert term is not None
    assert (term.activation, loss_info(term.function).expects) == ("softmax", "logits")
    assert torch.equal(term.outputs, made.softmax(1))


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(lambda p: ((p - VALUES) ** 3).mean(), id="cube"),
        pytest.param(lambda p: -((p - VALUES) ** 2).mean(), id="maximized"),
        pytest.param(lambda p: ((p - p.roll(1, 0)) ** 2).mean(), id="two outputs"),
        pytest.param(lambda p: ((p - 1) ** 2).mean(), id="a constant"),
        pytest.param(lambda p: ((p - torch.ones_like(p)) ** 2).mean(), id="equal targets"),
        pytest.param(lambda p: ((p - p.detach().mean(0)) ** 2).sum(1).mean(), id="a center"),
        pytest.param(lambda p: -p.log_softmax(0)[range(ROWS), CLASS].mean(), id="softmax over rows"),
        pytest.param(lambda p: ((p.half() - VALUES.half()) ** 2).mean(), id="half precision"),
        pytest.param(lambda p: ((2 * p - VALUES) ** 2).mean(), id="not what the model returns"),
        pytest.param(lambda p: (p.log_softmax(1)[range(ROWS), CLASS] * -COLUMN[:, 0]).mean(), id="advantages"),
        pytest.param(lambda p: p.log_softmax(1)[range(ROWS), CLASS].mean(), id="maximized entropy"),
        pytest.param(lambda p: (VALUES * p.log_softmax(1)).sum(1).mean(), id="no probabilities"),
        pytest.param(lambda p: (VALUES * p.sigmoid().log() + 0.1 * (1 - p.sigmoid()).log()).mean(), id="no complement"),
        pytest.param(lambda p: ((p[:, :1] - VALUES) ** 2).mean(), id="broadcast"),
        pytest.param(lambda p: p.square().mean(), id="no targets"),
        pytest.param(lambda p: ((p - VALUES) ** 2).mean() + (p - ONE_HOT).abs().mean(), id="two terms with targets"),
    ],
)
def test_losses_of_other_kinds(loss: Loss) -> None:
    assert read(loss, CLASSES)[0] is None


@pytest.mark.parametrize("written", [True, False])
def test_rest_of_a_sum(written: bool) -> None:
    def loss(made: Tensor) -> Tensor:
        main = ((made - VALUES) ** 2).sum() if written else F.mse_loss(made, VALUES, reduction="sum")
        return (2 * main + 3 * made.square().mean()) / 5

    term, made = read(loss, CLASSES)
    assert term is not None
    assert term.rest is not None
    assert term.mean is not None
    info = loss_info(term.function)
    assert (info.family, info.reduction, info.composite) == ("squared_error", "mean", True)
    assert float(term.rest) == pytest.approx(0.6 * float(made.square().mean()), rel=1e-4)
    assert float(term.mean) == pytest.approx(float(F.mse_loss(made, VALUES)), rel=1e-5)


@pytest.mark.parametrize(
    ("rest", "penalty"),
    [
        pytest.param(lambda made, weights: weights.square().sum(), True, id="weights"),
        pytest.param(lambda made, weights: made.abs().mean(), True, id="the same outputs"),
        pytest.param(lambda made, weights: outputs().log_softmax(1)[:, 0].mean() + 9, False, id="other outputs"),
        pytest.param(lambda made, weights: (COLUMN.expand(-1, 4) @ weights).mean() + 9, False, id="another layer"),
    ],
)
@pytest.mark.parametrize("inputs", [True, False], ids=["inputs", "other targets"])
def test_terms_beside_penalties_and_those_that_reconstruct_inputs(
    rest: Callable[[Tensor, Tensor], Tensor], penalty: bool, inputs: bool
) -> None:
    weights = torch.ones(4, CLASSES, requires_grad=True)
    made = outputs()
    loss = F.mse_loss(made, VALUES) + rest(made, weights)
    term = main_term(loss, returned_tensors(made), lambda targets: inputs and targets is not None)
    assert (term is not None) == (penalty or inputs)


def test_label_smoothing_is_a_rest() -> None:
    term, made = read(lambda p: F.cross_entropy(p, CLASS, label_smoothing=0.1), CLASSES)
    assert term is not None
    assert float(term.mean or 0) == pytest.approx(float(F.cross_entropy(made, CLASS)), rel=1e-5)


def test_nothing_is_read_after_a_negative_rest() -> None:
    reader, terms = MainTerms(), []
    for sign in (1.0, -1.0, 1.0, 1.0):
        made = outputs()
        loss = ((made - VALUES) ** 2).mean() + sign * made.square().mean()
        terms.append(reader.read(loss, returned_tensors(made), lambda _: False))
    assert [term is not None for term in terms] == [True, True, False, False]


def test_saved_tensors_behind_hooks_are_left_alone() -> None:
    unpacked: list[Any] = []

    def unpack(tensor: Tensor) -> Tensor:
        unpacked.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        made = outputs()
        losses = [((made - VALUES) ** 2).mean(), -made.log_softmax(1)[range(ROWS), CLASS].mean()]
    assert [main_term(loss, returned_tensors(made)) for loss in losses] == [None, None]
    assert not unpacked
