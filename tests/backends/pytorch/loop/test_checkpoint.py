"""Repairs of `Loop` that start from the last healthy checkpoint of the original training."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.runtime import host_offload
from autotrainer.edits import ClipGradients, Edit, SetLearningRate, SkipUpdates
from autotrainer.reporting.plan import RepairPlan

EPOCHS, BAD = 12, 5
"""Epochs, and the one from which on a batch of each is broken."""


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(500, 10, generator=generator), torch.randn(10, generator=generator)
    return x, (x @ w + x[:, 0] * x[:, 1] > 0).long()


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


class Trained:
    """A loop that goes well until broken batches come; what each of its epochs began with is kept."""

    def __init__(self, **options: Any) -> None:
        x, y = _data()
        loader = DataLoader(TensorDataset(x[:384], y[:384]), batch_size=32, shuffle=True)
        model = _model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5)
        torch.manual_seed(1)
        given = {"scheduler": schedule, "budget": 4, **options}
        self.loop = loop = autotrainer.Loop(model, optimizer, nn.CrossEntropyLoss(), loader, epochs=EPOCHS, **given)
        self.begun: dict[tuple[int, int], tuple[dict[str, Tensor], float, Tensor]] = {}
        for epoch in loop:
            rate = loop.optimizer.param_groups[0]["lr"]
            weights = copy.deepcopy(loop.model.state_dict())
            self.begun[loop.attempt, epoch] = weights, rate, torch.get_rng_state()
            loop.model.train()
            for number, (inputs, labels) in enumerate(loop.train_loader):
                loop.optimizer.zero_grad()
                scale = 1e4 if epoch >= BAD and number == 3 else 1.0
                loop.loss_fn(loop.model(inputs * scale), labels).backward()
                loop.optimizer.step()
            loop.model.eval()
            with torch.no_grad():
                accuracy = (loop.model(x[384:]).argmax(1) == y[384:]).float().mean()
            loop.end_epoch(val_accuracy=accuracy)
            loop.scheduler.step()  # behind the call: belongs to the epoch all the same
        self.result = loop.result

    def starts(self) -> list[int]:
        """Return the first epoch of each attempt."""
        return [min(e for a, e in self.begun if a == attempt) for attempt in range(1, self.loop.attempt + 1)]


_OTHERS = ("scale_inputs", "insert_normalization", "swap_activation", "revive_units")
"""Repairs of the inputs and of dead units, which start from the beginning."""


@pytest.fixture(scope="module")
def clipped() -> Trained:
    others = ("scale_learning_rate", "add_momentum", "swap_optimizer", "reduce_on_plateau", "skip_update", "rollback")
    return Trained(forbid=(*others, *_OTHERS))


def test_live_edit_starts_from_the_last_healthy_checkpoint(clipped: Trained) -> None:
    number = next(n for n, a in enumerate(clipped.result.attempts) if a.plan.repairs == ("clip_gradients",))
    start = clipped.starts()[number]
    assert 1 <= start <= BAD
    (weights, rate, random), (again, same_rate, same_random) = clipped.begun[0, start], clipped.begun[number + 1, start]
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert rate == same_rate
    assert torch.equal(random, same_random)
    attempt = clipped.result.attempts[number]
    assert attempt.plan.start == start
    assert attempt.cost <= (EPOCHS - start) / EPOCHS + 0.01, "the epochs before it are not trained again"


def test_repair_from_a_checkpoint_is_described_as_applied(clipped: Trained) -> None:
    result = clipped.result
    assert result.status in ("repaired", "improved")
    assert result.score > result.baseline_score + 0.1
    assert len(result.history["score"]) == EPOCHS, "the epochs before it belong to it"
    plan = result.plan
    assert plan is not None
    start = plan.start
    assert start in clipped.starts()
    assert f"Apply this from the start of epoch {start} (" in str(plan)
    assert f"if epoch >= {start}:" in str(plan)
    assert f"clip_gradients (from epoch {start}; no errors left)" in str(result.report())
    assert RepairPlan.from_dict(json.loads(plan.to_json())) == plan


def test_repair_that_fails_from_a_checkpoint_is_tried_from_the_start() -> None:
    others = ("clip_gradients", "skip_update", "rollback", "swap_optimizer", "add_momentum")
    trained = Trained(forbid=(*others, *_OTHERS))
    first, second = trained.result.attempts[:2]
    assert first.plan.edits == second.plan.edits
    assert (first.plan.start > 0, second.plan.start) == (True, 0)
    assert trained.starts()[:2] == [first.plan.start, 0]
    assert torch.equal(trained.begun[2, 0][2], trained.begun[0, 0][2]), "with the random states of the beginning"


def test_large_models_have_no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_offload, "_LARGEST", 1000)
    assert set(Trained(budget=2).starts()) <= {0}


def test_other_edits_start_from_the_initial_state() -> None:
    trained = Trained(budget=2, forbid=("scale_learning_rate", "clip_gradients", "skip_update", "rollback"))
    assert trained.starts()[0] == 0


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (SetLearningRate(0.01), "if epoch == 3:\n           for group in optimizer.param_groups: group['lr'] = 0.01"),
        (ClipGradients("norm", 1.0), "if epoch >= 3:\n           torch.nn.utils.clip_grad_norm_"),
        (SkipUpdates(), "if epoch == 3:\n           norms"),
    ],
)
def test_lines_of_later_edits(edit: Edit, line: str) -> None:
    assert line in str(RepairPlan(("x",), (edit,), start=3))
    assert "epoch" not in str(RepairPlan(("x",), (edit,)))


def _healthy(watched: bool) -> tuple[list[Tensor], Tensor, autotrainer.Loop | None]:
    """Train with everything that has a state, in a `Loop` or without; returns weights, random state and the loop."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    x, y = _data()
    shuffled = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True, generator=shuffled)
    loss_fn, epochs = nn.CrossEntropyLoss(), 6

    def train(loader: Any) -> None:
        model.train()
        for inputs, labels in loader:
            optimizer.zero_grad()
            noise = 0.01 * (random.random() + float(np.random.rand())) * torch.randn(inputs.shape)
            loss_fn(model(inputs + noise), labels).backward()
            optimizer.step()

    loop = None
    if watched:
        loop = autotrainer.Loop(model, optimizer, loss_fn, loader, epochs=epochs, scheduler=schedule)
    for _ in range(epochs) if loop is None else loop:
        train(loader if loop is None else loop.train_loader)
        schedule.step()
    return [p.detach().clone() for p in (*model.parameters(), *model.buffers())], torch.get_rng_state(), loop


def test_checkpoints_do_not_change_the_training() -> None:
    plain, state, _ = _healthy(False)
    watched, watched_state, loop = _healthy(True)
    assert loop is not None
    assert loop.result.status == "healthy"
    assert loop._checkpoint_epoch > 1, "points were kept"
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(state, watched_state)


def test_trainings_are_built_on_the_original_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator, host tensors are taken for remote ones: the way back is the same."""
    from autotrainer.backends.pytorch.runtime import host_offload
    from autotrainer.backends.pytorch.training import initial_state

    ways: list[int] = []

    def copied(objects: Any, places: Any) -> Any:
        ways.append(len(places))
        return host_offload.copied(objects, places)

    monkeypatch.setattr(host_offload, "is_remote", lambda tensor: True)
    monkeypatch.setattr(initial_state, "copied", copied)
    Trained(budget=2)
    assert len(ways) > 1
    assert min(ways) > 0
