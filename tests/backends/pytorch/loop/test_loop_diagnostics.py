"""Diagnostics of `Loop`: they run on copies of a training that came out poorly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer import registry
from autotrainer.edits import SetLearningRate, SetLoss
from autotrainer.records.findings import Severity

torch.set_num_threads(1)

RANDOM = np.random.default_rng(0)
X = torch.from_numpy(RANDOM.normal(size=(1500, 10)).astype(np.float32))
Y = (X[:, 0] + X[:, 1] > 0).long()


class Flipped(nn.Module):
    """Means to turn the time axis around, and turns the rows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = self.inner(inputs.flip(0))
        return out


def _mlp(*, outputs: int = 2) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, outputs))


def _train(
    model: nn.Module,
    rate: float,
    epochs: int,
    change: Callable[[Tensor], Tensor] = lambda x: x,
    loss: Any = None,
    targets: Tensor = Y,
    **options: Any,
) -> autotrainer.Loop:
    torch.manual_seed(1)
    loader = DataLoader(TensorDataset(X[:1200], targets[:1200]), batch_size=50, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    loss = nn.CrossEntropyLoss() if loss is None else loss
    loop = autotrainer.Loop(model, optimizer, loss, loader, epochs=epochs, progress=False, **options)
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(change(x)), y).backward()
            loop.optimizer.step()
        loop.model.eval()
        with torch.no_grad():
            out = loop.model(change(X[1200:]))
        if targets is Y:
            loop.end_epoch(val_accuracy=float((out.argmax(1) == Y[1200:]).float().mean()))
        else:
            loop.end_epoch(val_mse=float(torch.nan_to_num((out - targets[1200:]) ** 2, nan=1e6).mean()))
    return loop


def test_shuffled_inputs_give_the_same_result() -> None:
    assert _train(Flipped(_mlp()), 0.003, 30, budget=1.1).result.findings[0].problem == "rows_mixed"
    loop = _train(Flipped(_mlp()), 0.003, 30, budget=1.1, ignore="rows_mixed")  # without the cause, the symptom
    told = {f.problem: f.severity for f in loop.result.findings}
    assert told["ignored_input"] is Severity.ERROR
    assert 1 < loop.result.cost <= 1.1, "questions are work that counts"


def test_lr_range_test_finds_a_better_rate() -> None:
    unmeasured = ("learning_rate_too_low", "abnormal_update_ratio")
    loop = _train(_mlp(), 3e-5, 25, budget=2.2, ignore=unmeasured, forbid="swap_optimizer")
    (edit,) = loop.result.attempts[0].plan.edits
    assert isinstance(edit, SetLearningRate)
    assert 1e-3 < edit.value < 1e-2
    assert loop.result.status == "repaired"


def test_replay_names_the_first_nonfinite_operation() -> None:
    def relative(outputs: Tensor, targets: Tensor) -> Tensor:
        return ((outputs.log() - targets.log()) ** 2).mean()

    loop = _train(_mlp(outputs=1), 0.01, 20, loss=relative, targets=X[:, :1].exp(), budget=3.0)
    found = next(f for f in loop.result.findings if f.problem == "nonfinite")
    assert "the logarithm of a negative number" in found.message
    assert loop.result.status == "repaired"
    assert [type(edit) for edit in loop.result.plan.edits] == [SetLoss]


@pytest.mark.parametrize(
    ("change", "asked"), [(lambda x: x, True), (lambda x: 3 * x + 1, False), (lambda x: x[:, :10] + 0, True)]
)
def test_no_diagnostics_if_the_loop_changes_batches(change: Any, asked: bool) -> None:
    loop = _train(Flipped(_mlp()), 0.003, 30, change, budget=1.1, ignore="rows_mixed")
    assert ("ignored_input" in {f.problem for f in loop.result.findings}) is asked


def test_diagnostics_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for asks in (True, False):
        if not asks:
            monkeypatch.setattr("autotrainer.api.loop.run_loop_diagnostics", lambda *_, **options: None)
        model = Flipped(_mlp())
        forbid = [repair.name for repair in registry.repairs()]
        loop = _train(model, 0.003, 30, budget=1.1, ignore="rows_mixed", forbid=forbid)
        assert ("ignored_input" in {f.problem for f in loop.result.findings}) is asks
        states.append((torch.get_rng_state(), model.state_dict()))
    assert torch.equal(states[0][0], states[1][0])
    assert all(torch.equal(a, b) for a, b in zip(states[0][1].values(), states[1][1].values(), strict=True))


def test_ctrl_c_during_diagnostics_keeps_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotrainer.diagnostics.loop_diagnostics.Diagnostics.of_training", interrupted)
    loops: list[autotrainer.Loop] = []
    made = autotrainer.Loop
    monkeypatch.setattr(autotrainer, "Loop", lambda *a, **k: loops.append(made(*a, **k)) or loops[-1])
    with pytest.raises(KeyboardInterrupt):
        _train(Flipped(_mlp()), 0.003, 30, budget=1.1)
    assert loops[0].result.stopped_by == "interrupt"
    assert loops[0].result.status == "unrepaired"
