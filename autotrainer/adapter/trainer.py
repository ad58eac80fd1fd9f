"""Managed trainings: the trainer that a backend implements, and what the core provides for each training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.observer import Recorder
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import Evaluation, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.edits import Edit
from autotrainer.records.data import ArrayData, Data, StreamData
from autotrainer.records.nonfinite import FirstNonfinite
from autotrainer.records.task import TaskContext

__all__ = ["ReplayRun", "Run", "Trainer"]


class Run(Protocol):
    """What the core provides to a `Trainer` for one training.

    The trainer attaches the backend's observer (``run.monitor.attach(observe(...))``); the core closes the monitor
    after `Trainer.train` has returned or raised.
    """

    @property
    def monitor(self) -> Recorder:
        """Receives what the backend's observer measures."""

    paused: bool
    """Whether the training that `end_epoch` has just ended may be continued later: see `Trained.paused`."""

    def keep(self, trained: Trained) -> None:
        """Register the training before its first batch, as the result if Ctrl-C interrupts the original training."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training with its edits, and the operations of one forward pass of one sample."""

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done: a training step (counted as three passes) or a forward pass.

        Returns:
            False if the budget does not allow it: the trainer must then skip it and end the training. Training steps
            leave enough budget for a final evaluation.
        """

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Take the values of an epoch at its end.

        Args:
            epoch: 0-based epoch.
            values: Values by name, at least ``loss``.
            evaluation: Predictions on the validation data, or None if the budget did not allow them.

        Returns:
            True to continue, False to end or pause the training: the trainer then returns the current state.
        """


class ReplayRun(Run, Protocol):
    """A run that searches for the first value that is not finite."""

    first: int
    """First step to check."""
    found: FirstNonfinite | None
    """The result, set by the trainer; `spend` returns False from then on."""
    steps: int
    """Number of training steps accounted for."""


class Trainer(ABC):
    """Runs trainings of one model, each from the same initial state; the user's objects stay unchanged."""

    context: TaskContext
    """The context of the original training."""
    first: bool = True
    """Whether the next training is the first one, which alone runs objects such as the user's Keras callbacks."""
    runs_callbacks: bool = False
    """Whether the first training runs objects of the user's that must see it as a whole."""
    resumable: bool = False
    """Whether a training can be paused at the end of an epoch and continue unaffected by others run meanwhile."""

    @abstractmethod
    def supports(self, edit: Edit) -> Support:
        """Return whether a training with this edit can be run, and if not, why."""

    def supports_together(self, edits: Sequence[Edit]) -> Support:
        """Return whether a training with all of these edits can be run, and if not, why.

        The default takes each by itself. Where one gives the output another width, a backend judges the others by that.
        """
        supports = [self.supports(edit) for edit in edits]
        return next((support for support in supports if not support), Support(SupportLevel.REBUILD))

    def identity(self) -> Mapping[str, Any]:
        """Return the parts that identify the original training: see `autotrainer.workers.fingerprint.digest`."""
        return {}

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays, with the types of its batches.

        Args:
            data: Training or validation data.
            rows: Maximum number of rows; whole batches are read until there are enough.

        Returns:
            The rows; None if a batch is not (inputs, targets), if rows differ in form, or if the backend can't read
            streams.
        """
        return data.take(np.arange(min(rows, data.rows))) if isinstance(data, ArrayData) else None

    def read_targets(self, data: StreamData, add: Callable[[NDArray[Any]], None]) -> None:
        """Read a stream once, and pass the targets of each batch on; the default, for backends without streams, none.

        Args:
            data: Training or validation data.
            add: Takes the targets of a batch, in the user's form.
        """
        return None

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a running training, before its next step.

        Returns:
            False if that is not possible; nothing has changed then.
        """
        return False

    def probed(self, trained: Trained) -> ProbedModel | None:
        """Return a copy of a trained model with the first rows of the training data, for probes; None, as by default,
        if the trainer supports no probes.

        Raises:
            NotProbedError: If the model can't be copied.
        """
        return None

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
        """Replay a training, check steps from ``run.first`` on, and set ``run.found`` to the first non-finite value.

        No observer is attached meanwhile. The default does nothing, for trainers without this ability.
        """
        return None

    @abstractmethod
    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build a training from the initial state with the edits of the spec, and run it.

        Evaluates on the validation data at the end of every epoch, and when the budget ends the training.

        Raises:
            Exception: Any exception of the framework or the user's code; the core turns it into a failed attempt.
        """
