from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import (
    EditedLoss,
    FunctionLoss,
    TolerantLoss,
    WeightedLoss,
    bridge,
    unreduced,
)
from autotrainer.edits import SetLoss
from autotrainer.errors import ConfigError, DataError

torch.manual_seed(0)
LOGITS = torch.randn(6, 3)
INDEX = torch.tensor([0, 1, 2, 2, 1, 0])
ONE_HOT = F.one_hot(INDEX, 3)
UNIT = torch.randn(6, 1)
BINARY = torch.tensor([0, 1, 1, 0, 1, 0])
SIGNED = 2 * BINARY - 1
VALUES = torch.randn(6, 1)
CE = F.cross_entropy(LOGITS, INDEX)
BCE = F.binary_cross_entropy_with_logits(UNIT[:, 0], BINARY.float())


@pytest.mark.parametrize(
    ("name", "expects", "outputs", "targets", "expected"),
    [
        ("cross_entropy", "logits", LOGITS, INDEX, CE),
        ("cross_entropy", "logits", LOGITS, INDEX[:, None].float(), CE),
        ("cross_entropy", "logits", LOGITS, ONE_HOT, CE),
        ("cross_entropy", "logits", LOGITS, ONE_HOT.double(), CE),
        ("cross_entropy", "probabilities", LOGITS.softmax(1), INDEX, CE),
        ("cross_entropy", "probabilities", LOGITS.softmax(1), ONE_HOT.float(), CE),
        ("cross_entropy", "probabilities", 7 * LOGITS.softmax(1), INDEX, CE),
        ("cross_entropy", "log_probabilities", LOGITS.log_softmax(1), INDEX, CE),
        ("cross_entropy", "logits", UNIT, BINARY, BCE),
        ("cross_entropy", "logits", LOGITS.T[None], INDEX[None], CE),
        ("cross_entropy", "logits", LOGITS[None], INDEX[None], CE),
        ("cross_entropy", "logits", LOGITS[None], ONE_HOT[None], CE),
        ("binary_cross_entropy", "logits", UNIT, BINARY, BCE),
        ("binary_cross_entropy", "logits", UNIT[:, 0], BINARY[:, None].float(), BCE),
        ("binary_cross_entropy", "probabilities", UNIT.sigmoid(), BINARY.float(), BCE),
        ("binary_cross_entropy", "logits", LOGITS, ONE_HOT, F.binary_cross_entropy_with_logits(LOGITS, ONE_HOT + 0.0)),
        ("binary_cross_entropy", "logits", LOGITS, INDEX, F.binary_cross_entropy_with_logits(LOGITS, ONE_HOT + 0.0)),
        ("signed_logistic", "logits", UNIT, SIGNED, BCE),
        ("signed_logistic", "values", UNIT, SIGNED.float(), BCE),
        ("signed_logistic", "probabilities", UNIT.sigmoid(), SIGNED, BCE),
        ("squared_error", "values", UNIT, VALUES[:, 0], F.mse_loss(UNIT, VALUES)),
        ("squared_error", "values", UNIT[:, 0], VALUES, F.mse_loss(UNIT, VALUES)),
        ("absolute_error", "values", UNIT, VALUES[:, 0], F.l1_loss(UNIT, VALUES)),
    ],
)
def test_values(name: Any, expects: Any, outputs: torch.Tensor, targets: torch.Tensor, expected: torch.Tensor) -> None:
    outputs = outputs.clone().requires_grad_()
    loss = EditedLoss(SetLoss(name, expects))(outputs, targets)
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected, check_dtype=False)
    loss.backward()
    assert outputs.grad is not None
    assert outputs.grad.abs().sum() > 0


def test_masked_classes_do_not_count() -> None:
    targets = INDEX.clone()
    targets[:3] = -100
    loss = EditedLoss(SetLoss("cross_entropy", "logits"))(LOGITS, targets)
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS[3:], INDEX[3:]))


def test_probabilities_of_zero_stay_finite() -> None:
    outputs = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    for name in ("cross_entropy", "binary_cross_entropy"):
        loss = EditedLoss(SetLoss(name, "probabilities"))(outputs, torch.tensor([1, 0]))  # type: ignore[arg-type]
        loss.backward()
        assert torch.isfinite(loss)
        assert outputs.grad is not None
        assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("name", ["squared_error", "absolute_error"])
def test_never_broadcasts(name: Any) -> None:
    with pytest.raises(DataError, match=r"\(6, 3\)"):
        EditedLoss(SetLoss(name, "values"))(LOGITS, VALUES)


def test_tells_what_it_computes() -> None:
    info = EditedLoss(SetLoss("cross_entropy", "probabilities")).loss_info
    assert (info.family, info.expects, info.class_axis) == ("cross_entropy", "probabilities", 1)
    assert EditedLoss(SetLoss("binary_cross_entropy", "logits")).loss_info.classifies
    assert FunctionLoss(F.mse_loss).loss_info.family == "squared_error"


@pytest.mark.parametrize(
    "loss", [nn.CrossEntropyLoss(), F.cross_entropy, EditedLoss(SetLoss("cross_entropy", "logits"))]
)
def test_weighted(loss: Any) -> None:
    weighted = WeightedLoss(unreduced(loss), FunctionLoss(F.cross_entropy).loss_info)
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 2.0])
    rows = F.cross_entropy(LOGITS, INDEX, reduction="none")
    torch.testing.assert_close(weighted(LOGITS, INDEX, weights), (rows[0] + rows[1] + 2 * rows[5]) / 4)
    torch.testing.assert_close(weighted(LOGITS, INDEX), CE)


def test_weights_need_rows() -> None:
    with pytest.raises(ConfigError, match="sample weights"):
        unreduced(lambda outputs, targets: outputs.sum())


def test_outputs_that_are_not_finite_give_a_loss_of_nan() -> None:
    outputs = torch.tensor([0.5, torch.nan], requires_grad=True)
    targets = torch.tensor([1.0, 0.0])
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        nn.BCELoss()(outputs, targets)
    loss = TolerantLoss(nn.BCELoss())
    value = loss(outputs, targets)
    value.backward()
    assert torch.isnan(value)
    assert loss.loss_info.family == "binary_cross_entropy"
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        loss(torch.tensor([0.5, 2.0]), targets)


@pytest.mark.parametrize(
    ("new", "given", "outputs", "expected"),
    [
        (SetLoss("binary_cross_entropy", "logits"), nn.BCELoss(), UNIT, UNIT.sigmoid()),
        (SetLoss("cross_entropy", "logits"), nn.NLLLoss(), LOGITS, LOGITS.log_softmax(1)),
        (SetLoss("cross_entropy", "probabilities"), nn.NLLLoss(), LOGITS.softmax(1), LOGITS.log_softmax(1)),
        (SetLoss("cross_entropy", "probabilities"), nn.CrossEntropyLoss(), LOGITS, None),
        (SetLoss("squared_error", "values"), nn.BCELoss(), UNIT, None),
        (SetLoss("cross_entropy", "log_probabilities"), nn.NLLLoss(), LOGITS, None),
    ],
)
def test_the_given_loss_judges_outputs_of_another_kind(new: SetLoss, given: Any, outputs: Any, expected: Any) -> None:
    convert = bridge(EditedLoss(new).loss_info, loss_info(given))
    if expected is None:
        assert convert is None
    else:
        assert convert is not None
        torch.testing.assert_close(convert(outputs), expected)
