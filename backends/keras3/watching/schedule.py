"""Where a watched training is, and how long it is planned to be."""

from __future__ import annotations

from autotrainer.backends.keras3.watching.step_measurement import Position

__all__ = ["Schedule"]

_SHORT_RUN = 1000
"""Steps up to which the last step of each epoch is sampled too."""


class Schedule:
    """Counts the steps and epochs of a run that may consist of several ``fit``.

    Args:
        epochs: Planned epochs; None: as ``fit`` says.
        steps: Planned steps; None: as ``fit`` says.
    """

    def __init__(self, epochs: int | None, steps: int | None) -> None:
        self._given = (epochs, steps)
        self._by_fit: tuple[int | None, int | None] = (None, None)
        self._epoch_start = 0
        self._epoch_of_fit: int | None = None
        self._steps_per_epoch: int | None = None
        self.count = 0
        """Optimizer steps so far."""
        self.stride = 1
        """Steps that a call of the train function takes."""
        self.data_size: tuple[int | None, int | None] = (None, None)
        """Rows of the training data, and samples a batch."""

    @property
    def planned(self) -> tuple[int | None, int | None]:
        """Planned epochs and steps of the whole run, as far as they are known."""
        (epochs, steps), (by_fit, steps_by_fit) = self._given, self._by_fit
        return by_fit if epochs is None else epochs, steps_by_fit if steps is None else steps

    @property
    def position(self) -> Position:
        """Where the run is."""
        return Position(self.count, self.count - self._epoch_start, self.stride)

    def call_fit(self, data_size: tuple[int | None, int | None]) -> None:
        """Note that ``fit`` is called."""
        self._epoch_of_fit, self.data_size = None, data_size

    def start_fit(self, epochs: int | None, steps: int | None) -> None:
        """Take the planned length of a ``fit``: number of its last epoch, steps an epoch."""
        self._steps_per_epoch = steps
        self._by_fit = (epochs, None)

    def start_epoch(self, epoch: int, so_far: int) -> int | None:
        """Note where an epoch starts.

        Args:
            epoch: Its number, as ``fit`` counts.
            so_far: Epochs of the run so far.

        Returns:
            Its number in the run, if it is the first epoch of a ``fit`` of known length.
        """
        number, (planned, _) = None, self._by_fit
        if planned is not None and self._epoch_of_fit is None:
            number = max(so_far, epoch)
            planned = number + planned - epoch
            self._by_fit = (planned, None if self._steps_per_epoch is None else self._steps_per_epoch * planned)
        self._epoch_of_fit, self._epoch_start = epoch, self.count
        return number

    def last_of_epoch(self) -> int | None:
        """Return the step at which the last call of this epoch starts, in a short run and where it is known."""
        if self._steps_per_epoch is None or self._epoch_start + self._steps_per_epoch > _SHORT_RUN:
            return None
        return self._epoch_start + (self._steps_per_epoch - 1) // self.stride * self.stride
