"""The losses of steps that are not sampled, computed from the running means in Keras' logs."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.watching.step_counter import StepCounts

__all__ = ["LossTracker", "loss_names", "loss_parts"]

_MAX_LOGS = 1024
_MAX_STEPS = 20_000
"""Steps of an epoch up to which a single loss is computed from the difference of two means: a mean has 32 bits, so the
error of the difference is about 1e-7 of the mean times the number of steps."""
_MEAN_TOLERANCE = 1e-3
_RAW_TOLERANCE = 1e-5


class LossTracker:
    """Keeps references to the logs of steps, and turns them into losses later.

    For Keras' own training step, ``logs["loss"]`` is the mean over the epoch so far; a custom one may log anything.
    Sampled steps, whose loss is known, show which it is, or else the model's metrics do.
    """

    def __init__(self) -> None:
        self.logs: deque[Any] = deque(maxlen=_MAX_LOGS)
        """Logs of the last calls in this epoch; the caller appends them."""
        self.unmeasured: frozenset[str] = frozenset()
        """Names in the logs without a measured value; the caller sets it."""
        self._meaning = self._assumed_meaning = "unknown"
        self._previous = 0.0
        self._losses: list[tuple[int, float]] = []
        self._last: Any = {}
        self._names: tuple[str, ...] = ("loss",)
        self._only_nonfinite = False
        self._reported: dict[str, Any] = {}
        self._means: tuple[Callable[[], float], ...] = ()

    @property
    def last(self) -> Any:
        """The logs of the last call."""
        return self.logs[-1] if self.logs else self._last

    def learn(self, logs: Any, means: Sequence[Callable[[], float]], objectives: int) -> None:
        """Find the loss in the logs of a custom training step.

        Args:
            logs: Logs of a step.
            means: Each returns the value of a metric that is a mean over the steps of an epoch.
            objectives: How many optimizers take gradients. With several, as in adversarial training, the sum of their
                losses does not measure progress, so only losses that are not finite are reported.
        """
        items = logs.items() if isinstance(logs, Mapping) else ()
        self._names = loss_names({name: value for name, value in items if name not in self.unmeasured})
        self._only_nonfinite = self._only_nonfinite or (objectives > 1 and len(self._names) > 1)
        self._means = tuple(means)

    def expect_no_progress(self) -> None:
        """Report only losses that are not finite from now on, as the model is trained against another one."""
        self._only_nonfinite = True

    def start_epoch(self) -> None:
        """Discard logs not yet read: the running mean starts again."""
        self._last = self.last
        self.logs.clear()
        self._previous = 0.0

    def trust_means(self) -> None:
        """Treat logs as running means without proof: the training step is Keras' own."""
        self._meaning = self._assumed_meaning = "mean"

    def trust_values(self) -> None:
        """Treat logs as the losses of single steps without proof."""
        self._meaning = self._assumed_meaning = "raw"

    def calibrate(self, loss: float, counts: StepCounts) -> float:
        """Find out what the logs mean, at a sampled step whose logs have just been appended.

        Args:
            loss: Loss of the step, NaN if unknown.
            counts: Steps so far, this one included.

        Returns:
            The loss of the step: ``loss`` if known, or else that of the logs.
        """
        now = self._loss_of(self.logs[-1]) if self.logs else math.nan
        if math.isnan(loss):
            if self._means and self.logs and counts.in_epoch > counts.per_call and self._assumed_meaning == "unknown":
                self._assumed_meaning = "mean" if self._logs_are_means(self.logs[-1]) else self._assumed_meaning
                self._means = ()
            self._meaning = self._assumed_meaning
            if self._meaning == "mean" and math.isfinite(now):
                before = self._loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
                now = _difference(before, now, counts.in_epoch, counts.per_call)
            return now
        if counts.in_epoch > counts.per_call and math.isfinite(loss):
            before = self._loss_of(self.logs[-2]) if len(self.logs) > 1 else self._previous
            single = _difference(before, now, counts.in_epoch, counts.per_call)
            if abs(single - loss) <= _MEAN_TOLERANCE * abs(loss) + 1e-6:
                self._meaning = "mean"
            else:
                self._meaning = "raw" if abs(now - loss) <= _RAW_TOLERANCE * abs(loss) else "unknown"
        return loss

    def collect(self, counts: StepCounts, *, sampled: bool) -> None:
        """Turn the stored logs into losses.

        Args:
            counts: Steps so far.
            sampled: Whether the last step is sampled, so that its observation has the loss.
        """
        values = [self._loss_of(logs) for logs in self.logs]
        before = self._previous if len(values) < _MAX_LOGS else math.nan
        for index, value in enumerate(values):
            later = counts.per_call * (len(values) - 1 - index)
            done = counts.in_epoch - later
            single = _difference(before, value, done, counts.per_call) if self._meaning == "mean" else value
            known = not math.isnan(before) and not math.isnan(value)
            before = value
            last = sampled and index == len(values) - 1
            too_late = self._meaning == "mean" and done > _MAX_STEPS
            if self._meaning != "unknown" and not last and not too_late and known:
                self._losses.append((counts.total - later - 1, single if math.isfinite(single) else math.inf))
        self._previous = before if values else self._previous
        self._last = self.last
        self.logs.clear()
        del self._losses[:-_MAX_LOGS]

    def report(self, terms: Mapping[str, Any]) -> None:
        """Take terms of the loss of the present step, as the user's loop reports them."""
        self._reported = {**self._reported, **terms}

    def terms(self, counts: StepCounts) -> dict[str, float]:
        """Return the terms of the loss in the logs of the last call, as means over its steps; empty without several.

        Call it before `collect`.

        Args:
            counts: Steps so far.
        """
        reported, self._reported = self._reported, {}
        if reported:
            return {name: _number(reported, name) for name in reported}
        now = self.last
        parts = loss_parts(now) if isinstance(now, Mapping) else ()
        if not parts or self._meaning == "unknown" or self._only_nonfinite or not self.logs:
            return {}
        before = self.logs[-2] if len(self.logs) > 1 else self._last
        terms = {}
        for name in parts:
            value = _number(now, name)
            if self._meaning == "mean" and counts.in_epoch > counts.per_call and math.isfinite(value):
                value = _difference(_number(before, name), value, counts.in_epoch, counts.per_call)
            terms[name] = value
        return terms

    def take(self) -> list[tuple[int, float]]:
        """Return the (step, loss) pairs since the last call."""
        losses, self._losses = self._losses, []
        return losses

    def _logs_are_means(self, logs: Any) -> bool:
        """Return whether each loss in the logs equals the value of a metric."""
        if keras.backend.backend() == "jax":
            return False  # its metrics hold no values while it trains
        if any(name not in logs for name in self._names):
            return False
        means = [mean() for mean in self._means]
        return all(
            any(math.isclose(logs[name], mean, rel_tol=_RAW_TOLERANCE) for mean in means) for name in self._names
        )

    def _loss_of(self, logs: Any) -> float:
        """Return the loss in logs: NaN if there is none, infinity if it is not finite."""
        try:
            value = sum(float(logs[name]) for name in self._names)
        except (KeyError, TypeError, ValueError):  # a training step may return anything
            return math.nan
        if not math.isfinite(value):
            return math.inf
        return value if self._names and not self._only_nonfinite else math.nan


def _difference(before: float, now: float, done: int, per_call: int) -> float:
    """Return the mean loss of the last call, from the running means before and after it."""
    return (done * now - (done - per_call) * before) / per_call


def _number(logs: Any, name: str) -> float:
    """Return a number in logs: NaN if there is none, infinity if it is not finite."""
    try:
        value = float(logs[name])
    except (KeyError, TypeError, ValueError):
        return math.nan
    return value if math.isfinite(value) else math.inf


def loss_parts(logs: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of several losses in logs of which another one is the total."""
    total = loss_names(logs)
    parts = tuple(n for n in logs if "loss" in str(n).split("_") and not str(n).startswith("val_") and n not in total)
    parts = tuple(name for name in parts if name not in ("loss_scale", "total_loss"))
    return parts if len(total) == 1 and len(parts) > 1 else ()


def loss_names(logs: Any) -> tuple[str, ...]:
    """Return the names of the loss in logs: ``loss``, else the total, else all parts of it."""
    names = [n for n in logs if not str(n).startswith("val_")] if isinstance(logs, Mapping) else []
    losses = [n for n in names if "loss" in str(n).split("_") and str(n) != "loss_scale"]
    total = next((name for name in ("loss", "total_loss") if name in losses), None)
    return tuple(losses) if total is None else (total,)
