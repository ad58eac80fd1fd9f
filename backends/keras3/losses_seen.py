"""The losses of steps between samples, read from the running means that Keras keeps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

__all__ = ["LossReader"]

_KEPT = 1024
_MAX_STEPS = 20_000
"""Steps of an epoch up to which a single loss is told from the difference of two means: the mean is kept in 32 bits,
so that the error of the difference is about 1e-7 of the mean times the number of steps."""
_MEAN_TOLERANCE = 1e-3
_RAW_TOLERANCE = 1e-5


class LossReader:
    """Keeps references to the logs of steps, and turns them into losses when there is time.

    ``logs["loss"]`` is the mean over the epoch so far for Keras' own training step, and may be anything for others:
    what it is gets found out at sampled steps, where the loss itself is known.
    """

    def __init__(self) -> None:
        self.logs: deque[Any] = deque(maxlen=_KEPT)
        """Logs of the last calls of this epoch; the caller appends them."""
        self._reading = self._unproven = "unknown"
        self._previous = 0.0
        self._found: list[tuple[int, float]] = []

    def start_epoch(self) -> None:
        """Forget logs not yet read: the running mean starts again."""
        self.logs.clear()
        self._previous = 0.0

    def trust_means(self) -> None:
        """Take the logs for running means without proof: the training step is Keras' own."""
        self._reading = self._unproven = "mean"

    def calibrate(self, loss: float, done: int, stride: int) -> float:
        """Find out what the logs say, at a sampled step whose logs have just been appended.

        Args:
            loss: Loss of the step, NaN if it is not known.
            done: Steps of this epoch, this one included.
            stride: Steps that a call takes.

        Returns:
            The loss of the step: the one given, or else what the logs say.
        """
        now = _loss_of(self.logs[-1]) if self.logs else math.nan
        if math.isnan(loss):
            self._reading = self._unproven
            if self._reading == "mean":
                before = _loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
                now = _difference(before, now, done, stride)
            return now if math.isnan(now) or math.isfinite(now) else math.inf
        if done > stride and math.isfinite(loss):
            before = _loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
            single = _difference(before, now, done, stride)
            if abs(single - loss) <= _MEAN_TOLERANCE * abs(loss) + 1e-6:
                self._reading = "mean"
            else:
                self._reading = "raw" if abs(now - loss) <= _RAW_TOLERANCE * abs(loss) else "unknown"
        return loss

    def collect(self, count: int, done: int, stride: int, *, sampled: bool) -> None:
        """Turn the logs kept into losses.

        Args:
            count: Steps of the run so far.
            done: Steps of this epoch so far.
            stride: Steps that a call takes.
            sampled: Whether the last step is told by its own observation.
        """
        values = [_loss_of(logs) for logs in self.logs]
        before = self._previous if len(values) < _KEPT else math.nan
        for place, value in enumerate(values):
            behind = stride * (len(values) - 1 - place)
            single = _difference(before, value, done - behind, stride) if self._reading == "mean" else value
            before = value
            last = sampled and place == len(values) - 1
            too_late = self._reading == "mean" and done - behind > _MAX_STEPS
            if self._reading != "unknown" and not last and not too_late and not math.isnan(before):
                self._found.append((count - behind - 1, single if math.isfinite(single) else math.inf))
        self._previous = before if values else self._previous
        self.logs.clear()
        del self._found[:-_KEPT]

    def take(self) -> list[tuple[int, float]]:
        """Return the (step, loss) pairs found since the last call."""
        found, self._found = self._found, []
        return found


def _difference(before: float, now: float, done: int, stride: int) -> float:
    """Return the mean loss of the last call, from the running means before and after it."""
    return (done * now - (done - stride) * before) / stride


def _loss_of(logs: Any) -> float:
    try:
        return float(logs["loss"]) if isinstance(logs, Mapping) and "loss" in logs else math.nan
    except (TypeError, ValueError):  # not a number: a custom training step may return anything
        return math.nan
