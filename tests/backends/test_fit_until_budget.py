"""`fit` and `Loop` with ``until="budget"``: real trainings that already work, or do after a repair, get better.

`test_resume_and_workers.py` has the same in Keras.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer

pytestmark = pytest.mark.slow

Data = tuple[np.ndarray, np.ndarray]


def _torch(rate: float) -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    return {"model": model, "loss": nn.MSELoss(), "optimizer": torch.optim.SGD(model.parameters(), rate)}


def _waves() -> tuple[Data, Data]:
    random = np.random.default_rng(0)
    x = random.normal(size=(600, 4)).astype(np.float32)
    y = (x[:, :1] - x[:, 1:2] + np.sin(2 * x[:, 2:3]) + 0.1 * random.normal(size=(600, 1))).astype(np.float32)
    return (x[:400], y[:400]), (x[400:], y[400:])


def _fit(arguments: dict[str, Any], **options: Any) -> autotrainer.Result:
    options = {"epochs": 20, "budget": 6.0, "progress": False, "until": "budget"} | options
    return autotrainer.fit(arguments.pop("model"), *_waves(), **arguments, **options)


def test_training_gets_better_until_the_budget_is_used() -> None:
    first, result = _fit(_torch(2e-2), until="healthy"), _fit(_torch(2e-2))
    assert result.status in ("repaired", "improved")
    assert first.cost < result.cost <= 6.0
    scores = [[attempt.score for attempt in one.attempts] for one in (first, result)]
    assert scores[0] == scores[1][: len(scores[0])], "the search begins in the same way"
    assert result.score >= first.score > result.baseline_score + 0.05
    assert result.plan is not None
    assert result.plan.repairs


def test_loop_returns_the_objects_of_the_training_that_is_chosen_in_the_end() -> None:
    (x, y), (held_x, held_y) = (tuple(map(torch.from_numpy, part)) for part in _waves())

    def run(until: str) -> autotrainer.Loop:
        parts = _torch(3e-3)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=32, shuffle=True)
        loop = autotrainer.Loop(
            parts["model"],
            parts["optimizer"],
            parts["loss"],
            loader,
            epochs=10,
            budget=9.0,
            until=until,  # type: ignore[arg-type]
        )
        torch.manual_seed(0)
        for _ in loop:
            for batch in loop.train_loader:
                loop.optimizer.zero_grad()
                loop.loss_fn(loop.model(batch[0]), batch[1]).backward()
                loop.optimizer.step()
            with torch.no_grad():
                loop.end_epoch(val_loss=float(loop.loss_fn(loop.model(held_x), held_y)))
        return loop

    loop = run("budget")
    healthy = run("healthy").result
    assert len(healthy.attempts) < len(loop.result.attempts)
    assert loop.result.score < healthy.score
    assert loop.result.status == "repaired"
    assert loop.result.score < 0.9 * loop.result.baseline_score
    assert loop.result.cost <= 9.0
    assert loop.model is loop.result.model
    with torch.no_grad():
        assert float(nn.MSELoss()(loop.model(held_x), held_y)) == pytest.approx(loop.result.score)
