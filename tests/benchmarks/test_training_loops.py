"""Faults of a PyTorch training loop have their described effect."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Program, load_cases
from benchmarks.cases.scoring import case_state, fix_state
from benchmarks.data.datasets import Arrays, load
from benchmarks.programs import pytorch as build_pytorch

LAYERS = (
    {"type": "batchnorm"},
    {"type": "dense", "units": 6, "activation": "relu"},
    {"type": "dropout", "rate": 0.5},
    {"type": "dense", "units": 3, "activation": "softmax"},
)
PROGRAM = Program(
    LAYERS,
    "scce",
    {"name": "sgd", "lr": 0.05},
    64,
    1,
    {"generator": "blob", "label_encoding": "index"},
    "framework",
    "accuracy",
)


class Steps:
    """Records what happens at each step."""

    def __init__(self, model: nn.Sequential, optimizer: torch.optim.Optimizer) -> None:
        self.score = 0.0
        self.modes: list[bool] = []
        self.norms: list[float] = []
        self.rates: list[float] = []
        self.owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self.evaluation: list[bool] = []
        self.model, self.before = model, [p.detach().clone() for p in model.parameters()]

        def step(*_: object) -> None:
            self.rates.append(optimizer.param_groups[0]["lr"])
            self.norms.append(
                sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None) ** 0.5
            )

        def forward(module: nn.Module, inputs: Any, outputs: Any) -> None:
            (self.modes if torch.is_grad_enabled() else self.evaluation).append(module.training)

        optimizer.register_step_pre_hook(step)
        model.register_forward_hook(forward)

    def end_epoch(self, **values: float) -> None:
        """Do nothing."""


def run(program: Program) -> tuple[Steps, Arrays]:
    data = load(program, 0)

    @contextlib.contextmanager
    def watch(model: nn.Sequential, optimizer: torch.optim.Optimizer, **_: object) -> Iterator[Steps]:
        yield Steps(model, optimizer)

    score, steps = build_pytorch.train(program, data, 0, watch)
    steps.score = score
    return steps, data


def moved(steps: Steps) -> list[bool]:
    return [not torch.equal(a, b) for a, b in zip(steps.before, steps.model.parameters(), strict=True)]


def test_correct_loop() -> None:
    steps, _ = run(PROGRAM)
    assert len(steps.modes) == 11
    assert all(steps.modes)
    assert not any(steps.evaluation)
    assert all(moved(steps))


def test_gradients_accumulate_without_zero_grad() -> None:
    once = run(PROGRAM)[0].norms
    added = run(replace(PROGRAM, loop={"zero_grad": False}))[0].norms
    assert added[0] == once[0]
    assert added[-1] > 3 * once[-1]


def test_gradients_are_clipped() -> None:
    optimizer = {**PROGRAM.optimizer, "clip_norm": 1e-3}
    assert max(run(replace(PROGRAM, optimizer=optimizer))[0].norms) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("optimized", "trained"), [("first", [0, 1]), ("last", [4, 5]), ("none", [])])
def test_optimizer_lacks_parameters(optimized: str, trained: list[int]) -> None:
    steps, _ = run(replace(PROGRAM, loop={"optimized": optimized}))
    assert [i for i, changed in enumerate(moved(steps)) if changed] == trained
    assert bool(steps.owned & {id(p) for p in steps.model.parameters()}) == bool(trained)


def test_wrong_modes() -> None:
    steps, _ = run(replace(PROGRAM, loop={"mode": "eval"}))
    assert not any(steps.modes)
    steps, _ = run(replace(PROGRAM, loop={"evaluation": "train"}))
    assert all(steps.modes)
    assert all(steps.evaluation)


@pytest.mark.parametrize(
    ("schedule", "rates"), [("per_epoch", {0.05}), ("per_batch", {0.05 / 10**k for k in range(11)})]
)
def test_schedule_is_stepped_per_epoch_or_batch(schedule: str, rates: set[float]) -> None:
    steps, _ = run(replace(PROGRAM, loop={"schedule": schedule}))
    assert {round(rate, 15) for rate in steps.rates} == {round(rate, 15) for rate in rates}


def test_rows_stay_in_order_without_shuffling() -> None:
    dataset = {**PROGRAM.dataset, "order": "by_label"}
    labels: list[int] = []

    class Loss(nn.Module):
        def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            if outputs.requires_grad:
                labels.extend(targets.tolist())
            return nn.functional.nll_loss(outputs.log(), targets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_pytorch, "loss_module", lambda program: Loss())
        run(replace(PROGRAM, dataset=dataset, loop={"shuffle": False}))
    assert labels == sorted(labels)
    assert len(set(labels)) == 3


def test_fit_arguments_reject_loop_faults() -> None:
    data = load(PROGRAM, 0)
    parts = (data.x_train, data.y_train), (data.x_test, data.y_test)
    with pytest.raises(ConfigError, match="in the training loop"):
        build_pytorch.fit_arguments(replace(PROGRAM, loop={"zero_grad": False}), *parts, 0)
    arguments = build_pytorch.fit_arguments(replace(PROGRAM, loop={"shuffle": False}), *parts, 0)
    (_, first), *_ = arguments["train_data"]
    assert torch.equal(first, torch.from_numpy(data.y_train[:64]))


@pytest.mark.parametrize(
    "name",
    [
        "arm.mlp.forgotten_parameters.0",
        "cancer.norm.trains_in_evaluation.0",
        "cancer_codes.autoencoder.no_zero_grad.0",
        "diabetes.mlp.log_of_zero.0",
        "diabetes.mlp.momentum_too_high+raw_targets.0",
        "wine.mlp.no_zero_grad.0",
    ],
)
def test_generated_faults_show_and_their_fixes_work(name: str) -> None:
    (case,) = load_cases(["generated"], [name])
    assert case.fixed is not None
    original, fixed = (run(program)[0].score for program in (case.original, case.fixed))
    assert case_state(case, [original], [fixed], "pytorch") == "faulty"
    assert fix_state(case, [fixed], "pytorch") == "healthy"
