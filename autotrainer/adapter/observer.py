"""The two sides of a watched training: the observer that a backend attaches, and the recorder that it reports to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place

__all__ = ["EpochObserver", "Locator", "Observer", "Recorder", "Sampling"]


class Observer(Protocol):
    """What a backend keeps attached to a watched training."""

    def log(self, *, loss: Any, outputs: Any, targets: Any) -> None:
        """Take what the user's loop reports: tensors of the framework, or None."""

    def close(self) -> None:
        """Detach everything from the user's objects."""


@runtime_checkable
class EpochObserver(Observer, Protocol):
    """An observer that knows something of an epoch by itself."""

    def epoch_values(self) -> Mapping[str, float]:
        """Return what was observed in the epoch that ends now, by name; values from the user's loop take precedence.

        ``evaluation_mode`` is 1 if the model was evaluated with dropout and batch normalization in training mode, 0 if
        in evaluation mode.
        """


@runtime_checkable
class Locator(Observer, Protocol):
    """An observer that knows the user's code."""

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made, or the loss or the step is called; empty if unknown."""


class Sampling(Protocol):
    """Decides which steps are measured, within what monitoring may cost."""

    @property
    def next_step(self) -> int:
        """The earliest step that may be sampled; compare with it before calling `due`."""

    def due(self, step: int) -> bool:
        """Return whether to sample the step that is about to begin (0-based)."""

    def affordable(self) -> bool:
        """Return whether a verdict, or one more sample, stays within the allowance."""

    def charge(self, seconds: float, *, sample: bool = False) -> None:
        """Account for the seconds that monitoring has taken; ``sample``: that they are the cost of a sample."""


class Recorder(Protocol):
    """What a backend reports to: `autotrainer.Monitor`."""

    history: RunHistory
    context: TaskContext
    closed: bool

    @property
    def sampler(self) -> Sampling:
        """Decides which steps are measured."""

    @property
    def needs(self) -> frozenset[str]:
        """Columns of `STEP_COLUMNS` and `LAYER_COLUMNS` that are worth measuring."""

    @property
    def observer(self) -> Observer | None:
        """What is attached to the training; None before that and once closed."""

    def attach(self, observer: Observer) -> None:
        """Keep the observer that is to be closed with this recorder."""

    def begin(self, context: TaskContext) -> None:
        """Start or refine the run: the layers of the context become the rows of the layer table."""

    def record(self, seen: Observation) -> None:
        """Take in what was observed at a sampled step. Its arrays are not kept."""

    def learn(self, facts: Mapping[str, float]) -> None:
        """Take in facts of data and model, by name: see `autotrainer.records.facts.FACTS`."""

    def log(self, *, loss: Any = None, outputs: Any = None, targets: Any = None) -> None:
        """Take what the backend can't see by itself: loss, outputs and targets of a batch."""

    def record_losses(self, losses: Sequence[tuple[int, float]]) -> None:
        """Take in (step, loss) pairs of steps that were not sampled; infinity for a loss that is not finite."""

    def advance(self, step: int) -> None:
        """Set the latest step, sampled or not; cheap."""

    def end_epoch(self, **values: Any) -> None:
        """End an epoch, with the numbers known at its end by name."""

    def finish(self, *, finished: bool = True) -> None:
        """Mark the training as ended, by itself or broken off."""

    def close(self) -> None:
        """Detach from the training."""

    def fail(self, part: str, error: BaseException) -> None:
        """Report, once, that a part failed; the training goes on."""

    def guard(self, part: str) -> AbstractContextManager[None, bool | None]:
        """Return a context manager that keeps every `Exception` from the training and reports it through `fail`."""
