"""The core's side of a managed training, for tests of trainers: no verdict, and everything written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from autotrainer.adapter.spec import Evaluation, Trained
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import StepSampler
from autotrainer.records.task import TaskContext
from autotrainer.training.base_run import ManagedMonitor

__all__ = ["RecordedRun"]


@dataclass
class RecordedRun:
    """A `autotrainer.adapter.Run` that writes down how it is called.

    Attributes:
        budget: Samples that may pass through the model; a training step passes each of its own three times.
        reserve: Part of the budget that training steps leave for a last evaluation.
        watched: Whether steps are measured.
        epochs: Epochs after which it ends the training, or None.
        pauses: Epochs after which it pauses the training.
        monitor: Takes what the observer sees.
        calls: Names of the calls, in order.
        kept: What `keep` was given.
        context: What `start` was given.
        operations: What `start` was given.
        trained: Samples trained on.
        evaluated: Samples evaluated.
        denied: Training steps that were denied.
        ends: What `end_epoch` was given.
    """

    budget: float = math.inf
    reserve: int = 0
    watched: bool = True
    epochs: int | None = None
    pauses: tuple[int, ...] = ()
    paused: bool = field(default=False, init=False)
    monitor: Monitor = field(init=False)
    calls: list[str] = field(default_factory=list, init=False)
    kept: Trained | None = field(default=None, init=False)
    context: TaskContext = field(default_factory=TaskContext, init=False)
    operations: float = field(default=0.0, init=False)
    trained: int = field(default=0, init=False)
    evaluated: int = field(default=0, init=False)
    denied: int = field(default=0, init=False)
    ends: list[tuple[int, dict[str, float], Evaluation | None]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.monitor = ManagedMonitor([], StepSampler(active=self.watched), quiet=True)

    @property
    def spent(self) -> int:
        """Part of the budget that is spent."""
        return 3 * self.trained + self.evaluated

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation at the end of the last epoch."""
        last = self.ends[-1][2]
        assert last is not None, "the last epoch ended without an evaluation"
        return last

    def keep(self, trained: Trained) -> None:
        """Note the call."""
        self.calls.append("keep")
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Note the call."""
        self.calls.append("start")
        self.context, self.operations = context, operations

    def spend(self, samples: int, *, training: bool) -> bool:
        """Count, and deny what is beyond the budget."""
        self.calls.append("train" if training else "evaluate")
        if self.spent + (3 * samples + self.reserve if training else samples) > self.budget:
            self.denied += training
            return False
        if training:
            self.trained += samples
        else:
            self.evaluated += samples
        return True

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Note the call, and end the training where that is wanted."""
        self.calls.append("end_epoch")
        self.ends.append((epoch, dict(values), evaluation))
        self.monitor.end_epoch(**values)
        self.paused = len(self.ends) in self.pauses
        return not self.paused and (self.epochs is None or len(self.ends) < self.epochs)
