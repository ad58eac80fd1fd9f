"""The losses of steps between samples, read from the running means that Keras keeps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

__all__ = ["LossTracker", "loss_names"]

_KEPT = 1024
_MAX_STEPS = 20_000
"""Steps of an epoch up to which a single loss is told from the difference of two means: the mean is kept in 32 bits,
so that the error of the difference is about 1e-7 of the mean times the number of steps."""
_MEAN_TOLERANCE = 1e-3
_RAW_TOLERANCE = 1e-5


class LossTracker:
    """Keeps references to the logs of steps, and turns them into losses when there is time.

    ``logs["loss"]`` is the mean over the epoch so far for Keras' own training step, and may be anything for others:
    what it is gets found out at sampled steps, where the loss itself is known, or else from the model's metrics.
    """

    def __init__(self) -> None:
        self.logs: deque[Any] = deque(maxlen=_KEPT)
        """Logs of the last calls of this epoch; the caller appends them."""
        self.unmeasured: frozenset[str] = frozenset()
        """Names in the logs under which nothing is told; the caller sets it."""
        self._reading = self._unproven = "unknown"
        self._previous = 0.0
        self._found: list[tuple[int, float]] = []
        self._last: Any = {}
        self._names: tuple[str, ...] = ("loss",)
        self._only_failures = False
        self._means: tuple[Callable[[], float], ...] = ()

    @property
    def last(self) -> Any:
        """The logs of the last call."""
        return self.logs[-1] if self.logs else self._last

    def learn(self, logs: Any, means: Sequence[Callable[[], float]], objectives: int) -> None:
        """Find out where the loss stands in the logs of a training step of the user's own.

        Args:
            logs: Logs of a step.
            means: Each gives the value of a metric that is a mean over the steps of an epoch.
            objectives: How many optimizers take gradients; for several, of adversaries say, no sum of their losses
                tells of success, so that only a loss that is not finite is told.
        """
        told = logs.items() if isinstance(logs, Mapping) else ()
        self._names = loss_names({name: value for name, value in told if name not in self.unmeasured})
        self._only_failures = objectives > 1 and len(self._names) > 1
        self._means = tuple(means)

    def start_epoch(self) -> None:
        """Forget logs not yet read: the running mean starts again."""
        self._last = self.last
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
        now = self._loss_of(self.logs[-1]) if self.logs else math.nan
        if math.isnan(loss):
            if self._means and self.logs and done > stride and self._unproven == "unknown":
                self._unproven = "mean" if self._tell_means(self.logs[-1]) else self._unproven
                self._means = ()
            self._reading = self._unproven
            if self._reading == "mean" and math.isfinite(now):
                before = self._loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
                now = _difference(before, now, done, stride)
            return now
        if done > stride and math.isfinite(loss):
            before = self._loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
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
        values = [self._loss_of(logs) for logs in self.logs]
        before = self._previous if len(values) < _KEPT else math.nan
        for place, value in enumerate(values):
            behind = stride * (len(values) - 1 - place)
            single = _difference(before, value, done - behind, stride) if self._reading == "mean" else value
            known = not math.isnan(before) and not math.isnan(value)
            before = value
            last = sampled and place == len(values) - 1
            too_late = self._reading == "mean" and done - behind > _MAX_STEPS
            if self._reading != "unknown" and not last and not too_late and known:
                self._found.append((count - behind - 1, single if math.isfinite(single) else math.inf))
        self._previous = before if values else self._previous
        self._last = self.last
        self.logs.clear()
        del self._found[:-_KEPT]

    def take(self) -> list[tuple[int, float]]:
        """Return the (step, loss) pairs found since the last call."""
        found, self._found = self._found, []
        return found

    def _tell_means(self, logs: Any) -> bool:
        """Say whether each of the losses in the logs is what one of the metrics holds."""
        if keras.backend.backend() == "jax":
            return False  # while it trains, its metrics hold no values
        if any(name not in logs for name in self._names):
            return False
        means = [mean() for mean in self._means]
        return all(
            any(math.isclose(logs[name], mean, rel_tol=_RAW_TOLERANCE) for mean in means) for name in self._names
        )

    def _loss_of(self, logs: Any) -> float:
        """Return what logs say; NaN if nothing, infinity if it is not finite."""
        try:
            value = sum(float(logs[name]) for name in self._names)
        except (KeyError, TypeError, ValueError):  # not a number: a training step may return anything
            return math.nan
        if not math.isfinite(value):
            return math.inf
        return value if self._names and not self._only_failures else math.nan


def _difference(before: float, now: float, done: int, stride: int) -> float:
    """Return the mean loss of the last call, from the running means before and after it."""
    return (done * now - (done - stride) * before) / stride


def loss_names(logs: Any) -> tuple[str, ...]:
    """Return under which names logs hold the loss: ``loss``, else a total, else all parts that make it up."""
    names = [n for n in logs if not str(n).startswith("val_")] if isinstance(logs, Mapping) else []
    found = [n for n in names if "loss" in str(n).split("_") and str(n) != "loss_scale"]
    whole = next((name for name in ("loss", "total_loss") if name in found), None)
    return tuple(found) if whole is None else (whole,)
