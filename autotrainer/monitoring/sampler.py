"""Selects the steps to measure: few, spread over the run, within the allowed overhead."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from autotrainer.edits.base import is_number, shorten
from autotrainer.errors import ConfigError

__all__ = ["Sampler", "StepSampler"]

_FIRST_STEPS = 10
_SPREAD = 25
"""Samples are at least 1/25 of the steps so far apart: about 58 samples per factor of ten in steps."""
_HOOKS = 0.005
"""Share of the time that the hooks take between samples, for steps of half a millisecond."""
_SAMPLING_ALLOWANCE = 0.12
_RULES_ALLOWANCE = 0.18
"""Seconds that monitoring may cost beyond the share (the contract allows 0.2). Sampling stops before the rules do, so
that they are still evaluated at the end of epochs in a short or slow run."""


class Sampler:
    """Decides which steps are sampled, by the cost measured so far.

    The first ten steps are sampled. A later step is sampled if the samples stay evenly spread on a logarithmic scale
    of steps, and if the cost of monitoring so far, plus the expected cost of one more sample, stays within ``share`` of
    the time since the start plus 0.12 s.

    Args:
        share: Share of the training time that monitoring may cost, in (0, 1].
        clock: Clock in seconds.

    Raises:
        ConfigError: If the share is out of range.
    """

    def __init__(self, share: float = 0.01, clock: Callable[[], float] = perf_counter) -> None:
        if not is_number(share) or not 0 < share <= 1:
            raise ConfigError(
                f"overhead must be a share in (0, 1], not {shorten(share)}; 0.01 allows 1% of the training time"
            )
        share = float(share)
        self._share = share - min(share / 2, _HOOKS)
        self._clock = clock
        self._start = clock()
        self._spent = 0.0
        self._last_cost = 0.0
        self._next = 0

    @property
    def spent(self) -> float:
        """Seconds that monitoring has cost so far."""
        return self._spent

    @property
    def next_step(self) -> int:
        """The earliest step that may be sampled; a cheap check before calling `due`."""
        return self._next

    def due(self, step: int) -> bool:
        """Return whether to sample a step.

        Args:
            step: 0-based step that is about to begin.

        Returns:
            True if it is to be sampled; the caller then passes the cost to `charge`.
        """
        if step < self._next:
            return False
        if step < _FIRST_STEPS or self._affordable(_SAMPLING_ALLOWANCE):
            self._next = max(step + 1, step + step // _SPREAD)
            return True
        # Reading the clock at every step has a cost, too: check again after a pause.
        self._next = step + max(1, step // (8 * _SPREAD))
        return False

    def stop(self) -> None:
        """Sample no further step."""
        self._next = 1 << 62

    def affordable(self) -> bool:
        """Return whether evaluating the rules, or one more sample, stays within the allowance."""
        return self._affordable(_RULES_ALLOWANCE)

    def charge(self, seconds: float, *, sample: bool = False) -> None:
        """Account for time spent on monitoring.

        Args:
            seconds: The time; a negative one, of a clock that was set back, counts as none.
            sample: Whether it is the cost of a sample, which predicts the cost of the next one.
        """
        seconds = max(0.0, seconds)
        self._spent += seconds
        if sample:
            self._last_cost = seconds if not self._last_cost else (self._last_cost + seconds) / 2

    def _affordable(self, allowance: float) -> bool:
        allowed = allowance + self._share * (self._clock() - self._start)
        return self._spent + self._last_cost <= allowed


class StepSampler(Sampler):
    """Decides by step numbers alone, so that managed trainings are reproducible.

    Samples the same steps as `Sampler` without a cost limit.

    Args:
        active: False samples nothing.
    """

    def __init__(self, *, active: bool = True) -> None:
        super().__init__(share=1.0)
        if not active:
            self.stop()

    def affordable(self) -> bool:
        """Return False: managed trainings evaluate the rules themselves, at epochs of their choice."""
        return False

    def _affordable(self, allowance: float) -> bool:
        return True
