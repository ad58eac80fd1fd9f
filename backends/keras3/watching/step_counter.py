"""Counting the steps and epochs of a watched training, and its planned length."""

from __future__ import annotations

from dataclasses import dataclass

from autotrainer.monitoring.sampler import is_milestone

__all__ = ["StepCounter", "StepCounts"]


@dataclass(frozen=True, slots=True)
class StepCounts:
    """How far a run is.

    Attributes:
        total: Optimizer steps so far.
        in_epoch: Those of the present epoch.
        per_call: Steps that one call of the train function takes.
    """

    total: int
    in_epoch: int
    per_call: int


class StepCounter:
    """Counts the steps and epochs of a run that may consist of several ``fit``.

    Args:
        epochs: Planned epochs; None: those of ``fit``.
        steps: Planned steps; None: those of ``fit``.
        done: Steps of an earlier part of the run.
    """

    def __init__(self, epochs: int | None, steps: int | None, done: int = 0) -> None:
        self._requested = (epochs, steps)
        self._from_fit: tuple[int | None, int | None] = (None, None)
        self._epoch_start = done
        self._epoch_of_fit: int | None = None
        self._steps_per_epoch: int | None = None
        self.total = done
        """Optimizer steps so far."""
        self.steps_per_call = 1
        """Steps that a call of the train function takes."""
        self.data_size: tuple[int | None, int | None] = (None, None)
        """Rows of the training data, and the batch size; None if unknown."""

    @property
    def planned(self) -> tuple[int | None, int | None]:
        """Planned epochs and steps of the whole run, each None if unknown."""
        (epochs, steps), (epochs_of_fit, steps_of_fit) = self._requested, self._from_fit
        return epochs_of_fit if epochs is None else epochs, steps_of_fit if steps is None else steps

    @property
    def counts(self) -> StepCounts:
        """How far the run is."""
        return StepCounts(self.total, self.total - self._epoch_start, self.steps_per_call)

    def enter_fit(self, data_size: tuple[int | None, int | None]) -> None:
        """Register a call of ``fit``."""
        self._epoch_of_fit, self.data_size = None, data_size

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Register the planned length of a ``fit``: where it ends, and its steps per epoch."""
        self._steps_per_epoch = steps
        self._from_fit = (epochs, None)

    def restart_epoch(self) -> None:
        """Register that an epoch begins outside of a ``fit``."""
        self._epoch_start = self.total

    def start_epoch(self, epoch: int, epochs_so_far: int) -> int | None:
        """Register the start of an epoch.

        Args:
            epoch: Its number, as ``fit`` counts.
            epochs_so_far: Epochs of the run so far.

        Returns:
            Its number in the run, if it is the first epoch of a ``fit`` of known length; else None.
        """
        number, (planned, _) = None, self._from_fit
        if planned is not None and self._epoch_of_fit is None:
            number = max(epochs_so_far, epoch)
            planned = number + planned - epoch
            self._from_fit = (planned, None if self._steps_per_epoch is None else self._steps_per_epoch * planned)
        self._epoch_of_fit, self._epoch_start = epoch, self.total
        return number

    def ends(self, epoch: int) -> list[int]:
        """Return the steps at which the last calls of this epoch, of the next one and of the run start.

        Those of an epoch only if it is a milestone; none that is unknown.

        Args:
            epoch: 0-based number of this epoch in the run.
        """
        ends = []
        if self._steps_per_epoch is not None:
            last_call = (self._steps_per_epoch - 1) // self.steps_per_call * self.steps_per_call
            starts = self._epoch_start, self._epoch_start + self._steps_per_epoch
            ends = [start + last_call for ahead, start in enumerate(starts) if is_milestone(epoch + ahead)]
        planned = self.planned[1]
        return ends if planned is None else [*ends, planned - self.steps_per_call]

    def is_last(self, step: int) -> bool:
        """Return whether the call that starts at a step is the last one of the planned run."""
        planned = self.planned[1]
        return planned is not None and step < planned <= step + self.steps_per_call
