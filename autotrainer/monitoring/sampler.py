"""When to measure: few steps, spread over the run, within what the user allows it to cost."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from autotrainer.errors import ConfigError

__all__ = ["Sampler", "StepSampler"]

_FIRST_STEPS = 10
_SPREAD = 25
"""Between two samples lies at least a 25th of the steps so far: about 58 samples for each tenfold of steps."""
_HOOKS = 0.005
"""Share of the time that the hooks between samples take, in steps of half a millisecond."""
_SAMPLES_ALLOWANCE = 0.12
_VERDICTS_ALLOWANCE = 0.18
"""Seconds that monitoring may cost beyond the share (the contract allows 0.2). Samples stop earlier than verdicts, so
that a short or slow run is still judged at the ends of its epochs."""


class Sampler:
    """Decides which steps are sampled, from the cost measured so far.

    The first ten steps are sampled. After that a step is sampled if the samples so far stay evenly spread on
    a logarithmic scale of steps, and if what monitoring has cost, plus the expected cost of one more sample,
    stays within ``share`` of the time since the start plus a start allowance of 0.12 s.

    Args:
        share: Share of the training time that monitoring may cost, in (0, 1].
        clock: Clock in seconds.

    Raises:
        ConfigError: If the share is out of range.
    """

    def __init__(self, share: float = 0.01, clock: Callable[[], float] = perf_counter) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ConfigError(f"overhead must be a share in (0, 1], not {share!r}: 0.01 allows 1 % of the time")
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
        """The earliest step that may be sampled; compare with it before asking `due`."""
        return self._next

    def due(self, step: int) -> bool:
        """Say whether to sample a step.

        Args:
            step: 0-based number of the step that is about to begin.

        Returns:
            True if it is to be sampled; `charge` is then to be called with what that cost.
        """
        if step < self._next:
            return False
        if step < _FIRST_STEPS or self._affordable(_SAMPLES_ALLOWANCE):
            self._next = max(step + 1, step + step // _SPREAD)
            return True
        # Asking the clock at each step would itself cost: look again after a pause.
        self._next = step + max(1, step // (8 * _SPREAD))
        return False

    def affordable(self) -> bool:
        """Say whether a verdict, or one more sample whatever the spread, stays within the allowance."""
        return self._affordable(_VERDICTS_ALLOWANCE)

    def charge(self, seconds: float, *, sample: bool = False) -> None:
        """Account for time that monitoring has taken.

        Args:
            seconds: The time.
            sample: Whether it is the cost of a sample, the best guess of what the next one will cost.
        """
        self._spent += seconds
        if sample:
            self._last_cost = seconds if not self._last_cost else (self._last_cost + seconds) / 2

    def _affordable(self, allowance: float) -> bool:
        allowed = allowance + self._share * (self._clock() - self._start)
        return self._spent + self._last_cost <= allowed


class StepSampler(Sampler):
    """Decides by step numbers alone, so that equal trainings are sampled equally: for managed trainings.

    The same steps as those of `Sampler` where cost is no object.

    Args:
        active: False samples nothing.
    """

    def __init__(self, *, active: bool = True) -> None:
        super().__init__(share=1.0)
        if not active:
            self._next = 1 << 62

    def affordable(self) -> bool:
        """Return False: managed trainings ask for a verdict themselves, at epochs of their choice."""
        return False

    def _affordable(self, allowance: float) -> bool:
        return True
