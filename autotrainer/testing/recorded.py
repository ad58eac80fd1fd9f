"""The core's side of a managed training, for tests of trainers: records every call and stops nothing by itself."""

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
    """A `autotrainer.adapter.Run` that records how it is called.

    Attributes:
        budget: Samples that may pass through the model; those of a training step count three times.
        reserve: Part of the budget that training steps leave for a last evaluation.
        watched: Whether steps are measured.
        epochs: Number of epochs after which it ends the training, or None.
        pauses: Numbers of epochs after which it pauses the training.
        paused: Whether the last epoch's end has paused the training.
        monitor: Receives what the observer measures.
        calls: Names of the calls, in order.
        kept: The argument of `keep`.
        context: The context passed to `start`.
        operations: The operations passed to `start`.
        trained: Samples trained on.
        evaluated: Samples evaluated.
        denied: Training steps that were denied.
        ends: The arguments of each `end_epoch`.
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
        """The part of the budget that is spent."""
        return 3 * self.trained + self.evaluated

    @property
    def evaluation(self) -> Evaluation:
        """The evaluation at the end of the last epoch."""
        last = self.ends[-1][2]
        assert last is not None, "the last epoch ended without an evaluation"
        return last

    def keep(self, trained: Trained) -> None:
        """Record the call."""
        self.calls.append("keep")
        self.kept = trained

    def start(self, context: TaskContext, operations: float) -> None:
        """Record the call."""
        self.calls.append("start")
        self.context, self.operations = context, operations

    def spend(self, samples: int, *, training: bool) -> bool:
        """Count samples, and deny what exceeds the budget."""
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
        """Record the call, and end or pause the training after `epochs` or `pauses`."""
        self.calls.append("end_epoch")
        self.ends.append((epoch, dict(values), evaluation))
        self.monitor.end_epoch(**values)
        self.paused = len(self.ends) in self.pauses
        return not self.paused and (self.epochs is None or len(self.ends) < self.epochs)
