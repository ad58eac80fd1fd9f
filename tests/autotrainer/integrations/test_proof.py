"""Proof that a trial is sick: at once if the model is and stays a constant, never while it may still learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import InputError
from autotrainer.integrations._proof import CauseProof, stays_constant
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import TaskContext

ROWS, BATCH, EPOCHS = 256, 32, 2


def _zero(*layers: nn.Module) -> None:
    for layer in layers:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def _all_zero(model: nn.Sequential) -> None:
    _zero(model[0], model[2])


def _dead(model: nn.Sequential) -> None:
    nn.init.constant_(model[0].bias, -100.0)  # type: ignore[arg-type]


def _zero_output(model: nn.Sequential) -> None:
    _zero(model[2])


def _frozen(model: nn.Sequential) -> None:
    _zero_output(model)
    model[0].requires_grad_(False)


def _each_step(
    change: Callable[[Any], None] = lambda model: None,
    *,
    activation: type[nn.Module] = nn.ReLU,
    first_rate: float = 0.1,
    epochs: int | None = EPOCHS,
    equal_inputs: bool = False,
) -> Iterator[tuple[int, Any]]:
    """Train; after each step, yield the steps done and the monitor."""
    torch.manual_seed(0)
    x = torch.randn(ROWS, 8)
    y = (x[:, 0] > x[:, 1]).long()
    if equal_inputs:
        x = torch.ones_like(x)
    model = nn.Sequential(nn.Linear(8, 16), activation(), nn.Linear(16, 2))
    change(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], first_rate)
    loss_fn, steps = nn.CrossEntropyLoss(), 0
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=epochs, overhead=1.0) as monitor:
        for _ in range(EPOCHS):
            for batch, target in zip(x.split(BATCH), y.split(BATCH), strict=True):
                optimizer.zero_grad()
                loss_fn(model(batch), target).backward()
                optimizer.step()
                steps += 1
                yield steps, monitor
            optimizer.param_groups[0]["lr"] = 0.1
            monitor.end_epoch()


@pytest.mark.parametrize(
    ("change", "activation"),
    [
        pytest.param(_all_zero, nn.ReLU, id="all zero, ReLU"),
        pytest.param(_all_zero, nn.Tanh, id="all zero, tanh"),
        pytest.param(_dead, nn.ReLU, id="dead"),
    ],
)
@pytest.mark.parametrize("epochs", [EPOCHS, None])
def test_constant_that_only_the_output_layer_moves_is_proven_within_an_epoch(
    change: Callable[[Any], None], activation: type[nn.Module], epochs: int | None
) -> None:
    proof, causes = None, {}
    for steps, monitor in _each_step(change, activation=activation, epochs=epochs):
        proof = proof or CauseProof(monitor)
        if steps in (2, ROWS // BATCH):
            causes[steps] = proof.check()
    assert causes[2] is None  # too few rows
    assert causes[ROWS // BATCH].problem in ("poor_initialization", "dying_relu", "not_learning", "no_gradient")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="healthy"),
        pytest.param({"change": _zero_output}, id="output layer of zeros"),
        pytest.param({"change": _zero_output, "first_rate": 0.0}, id="output layer of zeros, warm-up from zero"),
        pytest.param({"change": _all_zero, "activation": nn.Sigmoid}, id="learns as one unit does"),
        pytest.param({"change": _frozen}, id="frozen"),
        pytest.param({"change": _all_zero, "equal_inputs": True}, id="equal inputs"),
    ],
)
def test_what_may_still_learn_is_never_proven_to_stay_constant(options: dict[str, Any]) -> None:
    verdicts = {steps: stays_constant(monitor.history, monitor.context) for steps, monitor in _each_step(**options)}
    assert len(verdicts) == EPOCHS * ROWS // BATCH
    assert not any(verdicts.values())


ZERO, MOVED, SAME = [[0.0, 0.1]] * 3, [[0.0, 0.1], [0.0, 0.2], [0.0, 0.3]], [[0.0, 0.1]] * 3


@pytest.mark.parametrize(
    ("gradients", "weights", "spread", "largest", "rows", "expected"),
    [
        pytest.param(ZERO, MOVED, 0.0, 1.0, 64, True, id="only the output layer moves"),
        pytest.param([[0.0, 0.0]] * 3, SAME, 0.0, 1.0, 64, True, id="nothing moves"),
        pytest.param(ZERO, SAME, 0.0, 1.0, 64, False, id="the output layer is yet to move"),
        pytest.param([*ZERO[:2], [0.1, 0.1]], MOVED, 0.0, 1.0, 64, False, id="a late gradient"),
        pytest.param(ZERO, MOVED, 0.1, 1.0, 64, False, id="outputs differ"),
        pytest.param(ZERO, MOVED, 0.0, 1.0, 16, False, id="few rows"),
        pytest.param(ZERO, [[0.0, math.nan]] * 3, 0.0, 1.0, 64, False, id="weights not measured"),
        pytest.param([[math.nan, 0.1]] * 3, MOVED, 0.0, 1.0, 64, False, id="gradients not measured"),
        pytest.param(ZERO, MOVED, math.inf, math.inf, 64, False, id="outputs not finite"),
    ],
)
def test_measurements_that_show_a_lasting_constant(
    gradients: list[list[float]], weights: list[list[float]], spread: float, largest: float, rows: int, expected: bool
) -> None:
    layers = {"grad_norm": np.array(gradients), "weight_norm": np.array(weights)}
    step = {"output_min": 0.0, "output_max": largest, "output_spread": spread, "target_spread": 0.5}
    scalars = {name: np.full(3, value) for name, value in {**step, "input_std": 1.0, "batch_size": float(rows)}.items()}
    infos = (LayerInfo("hidden", parameters=4), LayerInfo("output", parameters=4, hidden=False))
    history: Any = SimpleNamespace(layers=infos, layer=layers.__getitem__, scalar=scalars.__getitem__)
    assert stays_constant(history, TaskContext(layers=infos)) is expected


def test_monitor_may_come_later_and_must_be_one() -> None:
    assert CauseProof(SimpleNamespace(monitor=None)).check() is None
    with pytest.raises(InputError, match="a trial needs its monitor"):
        CauseProof(object())
