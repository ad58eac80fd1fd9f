from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from autotrainer.adapter import Evaluation, Trained
from autotrainer.sampler import StepSampler
from autotrainer.task import TaskContext
from autotrainer.trials import ManagedMonitor


class PlainRun:
    """The core's side of a managed training, with a budget in samples (a training step counts three)."""

    def __init__(self, budget: float = float("inf"), *, watched: bool = False, epochs: int | None = None) -> None:
        self.monitor = ManagedMonitor([], StepSampler(active=watched), quiet=True)
        self.budget, self.stop_after = budget, epochs
        self.spent = 0
        self.context = TaskContext()
        self.operations = 0.0
        self.kept: Trained | None = None
        self.epochs: list[tuple[int, Mapping[str, float], Evaluation | None]] = []

    def keep(self, trained: Trained) -> None:
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        self.context, self.operations = context, operations

    def spend(self, samples: int, *, training: bool) -> bool:
        work = samples * (3 if training else 1)
        if self.spent + work > self.budget:
            return False
        self.spent += work
        return True

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        self.epochs.append((epoch, values, evaluation))
        self.monitor.end_epoch(**values)
        return self.stop_after is None or len(self.epochs) < self.stop_after


@pytest.fixture
def make_run() -> Callable[..., PlainRun]:
    return PlainRun
