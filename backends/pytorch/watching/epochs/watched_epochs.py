"""The epochs of a watched training: which steps end one, and the values that are read there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import nn

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.watching.epochs.epoch_detector import EpochDetector
from autotrainer.backends.pytorch.watching.losses.loss_tracker import StepCounter
from autotrainer.backends.pytorch.watching.losses.validation_loss import ValidationLoss
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.sampler import is_milestone

__all__ = ["WatchedEpochs"]

_EPOCHS_WITH_VALUES, _EPOCHS_WITH_LOSSES = 100, 1024
"""Epochs at whose end values are read whatever that costs, and losses are reported; later at about every hundredth."""

_HELD_OUT_PREFIXES = ("val", "test", "eval", "dev")
"""Prefixes of the names of results on held-out data."""


class WatchedEpochs:
    """Ends the epochs that the loop does not end itself, and expects where the next one ends.

    Args:
        model: The model.
        monitor: Receives the epochs.
        counter: Counts the steps.
        values: Returns the values of the epoch that ends.

    Attributes:
        detector: Detects where epochs end.
        measurement: Measures sampled steps; set before the training begins.
        validation_loss: The loss on held-out data in the present epoch.
        end: Steps done when the next epoch ends, as expected; -1 if unknown.
        last: The last step: the planned one, or that expected from the length of the latest epoch; -1 if unknown.
    """

    measurement: StepMeasurement

    def __init__(
        self, model: nn.Module, monitor: Recorder, counter: StepCounter, values: Callable[[], Mapping[str, float]]
    ) -> None:
        self._monitor, self._counter, self._values = monitor, counter, values
        self.detector = EpochDetector(model, counter, weak_method(self._end_epoch))
        self.validation_loss = ValidationLoss(monitor.context.loss.reduction != "sum")
        self._ending: int | None = None
        self._start = counter.step
        self._full_batches = 0  # steps that were counted as epochs, as all get the same tensor
        self.end = self.last = -1

    def training_resumed(self) -> None:
        """Note that an evaluation has ended."""
        self.detector.resumed()
        self.validation_loss.complete()

    def skip(self, steps: int) -> None:
        """Count steps that were taken before the training was watched."""
        self.end += steps

    def is_extra(self, step: int) -> bool:
        """Return whether a step is sampled beyond the schedule, as an epoch ends with it."""
        return step == self.end and self.samples_end()

    def samples_end(self) -> bool:
        """Return whether the last step of the present epoch is sampled."""
        return is_milestone(self._monitor.history.epoch) and self._monitor.sampler.allows_extra()

    def expect_evaluation(self, step: int) -> None:
        """Track the mode of the evaluation that may follow the step that begins."""
        if step - self.end in (0, 1) and not self.measurement.compiled:
            self.measurement.mode_tracker.expect_evaluation(self.end + 1)

    def _end_epoch(self, at: int) -> None:
        """End an epoch that the loop does not end itself; of many short ones, most have no values, which takes time.

        Args:
            at: Steps done by then.
        """
        self.conclude_full_batch()
        self.count(at - 1)
        if self._is_one_of(_EPOCHS_WITH_VALUES):
            self._ending = at
            self._monitor.end_epoch(**self._values())
            self._ending = None
        else:
            self.validation_loss.clear()
            self._expect(at)
            self._monitor.count_epochs([at - 1])

    @property
    def reports_losses(self) -> bool:
        """Whether the losses are reported at the end of the present epoch, rather than with the next sample."""
        return self._is_one_of(_EPOCHS_WITH_LOSSES)

    def _is_one_of(self, first: int) -> bool:
        """Return whether the present epoch is one of the first, or a hundredth of the epochs behind the latest such."""
        epoch = self._monitor.history.epoch
        return epoch < first or epoch % (epoch // _EPOCHS_WITH_VALUES) == 0

    def finish(self) -> None:
        """End the last epoch, at the end of the training."""
        self.conclude_full_batch()
        at = self.detector.finish(interrupted=self._monitor.interrupted)
        if at is not None:
            self._end_epoch(at)
        self.count(self._counter.step)

    def conclude_full_batch(self) -> None:
        """Decide whether each step is an epoch, as all steps get the same tensor."""
        same, detector = self.measurement.mode_tracker.same_inputs, self.detector
        planned = self._monitor.context.planned_epochs
        shown = detector.follows_loader or detector.stopped or detector.reported
        detector.full_batch = same and not shown and (planned is None or self._counter.step <= planned)

    def count(self, step: int) -> None:
        """Count the steps up to this number of them as epochs, if each is one."""
        if self.detector.full_batch and self._monitor.history.epoch < step:
            self._full_batches += step - self._monitor.history.epoch
            self._monitor.count_epochs(range(self._monitor.history.epoch, step))
            self.detector.restart(step)
            self._expect_last(step, 1, self._monitor.history.epoch)

    def _expect(self, end: int) -> None:
        """Expect the next epoch to be as long as the one that ends with this number of steps done."""
        length = end - self._start
        self.end = end + length - 1
        self._start = end
        self._expect_last(end, length, self._monitor.history.epoch + 1)
        if not self.measurement.sampling and end <= self.end:
            self._counter.wake_step = min(self._counter.wake_step, self.end)

    def ending(self) -> int | None:
        """Return the number of steps done at the end of the epoch that ends now; None if its values have been read."""
        if self._ending is None:
            self.detector.stopped = True
            self._monitor.history.epoch -= self._full_batches  # the user's epochs have several steps each
            self._full_batches = 0
            return self._counter.step
        return None if self._start == self._ending else self._ending

    def read(self, step: int) -> dict[str, float]:
        """Return the values of the epoch that ends with this number of steps done, and expect the next one."""
        self._expect(step)
        values = {"val_loss": self.validation_loss.take()} if self.validation_loss else {}
        held_out_reported = any(name.startswith(_HELD_OUT_PREFIXES) for name in self._monitor.history.epoch_names)
        mode = self.measurement.mode_tracker.end_epoch(held_out_reported)
        if not math.isnan(mode):
            values["evaluation_mode"] = mode
        return values

    def _expect_last(self, end: int, length: int, epochs: int) -> None:
        """Expect all epochs to be of this length after so many, which end with this number of steps done."""
        planned = self._monitor.context.planned_epochs
        if planned is not None and not self._monitor.sampler.stopped:
            last = end + (planned - epochs) * length - 1
            if last >= end:
                self.last = last
                self._counter.wake_step = min(self._counter.wake_step, last)
