"""Selects the steps to measure: few, spread over the run, within the allowed overhead."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter

from autotrainer.edits.base import is_number, shorten
from autotrainer.errors import ConfigError

__all__ = ["Sampler", "StepSampler"]

_FIRST_STEPS = 10
"""Steps sampled one after the other, while the allowance lasts."""
_SPREAD = 25
"""Samples are at least 1/25 of the steps so far apart: about 58 samples per factor of ten in steps."""
_MINUTE = 60.0
"""Seconds of training that the allowance covers from the start: nobody minds a second, and short runs need it."""
_SAMPLES_SHARE = 0.8
"""Share of the allowance that samples may use, so that the rules are still evaluated in a short or slow run."""
_HOOK = 2.5e-6
"""Seconds that the hooks take in a step that is not sampled."""


class Sampler:
    """Decides which steps are sampled: by step numbers, as long as the cost stays within the allowance.

    The first ten steps are sampled, then steps spread evenly on a logarithmic scale. The allowance is ``share`` of the
    training time, at least of one minute. Where it is used up, step 0 is sampled all the same, the other first steps at
    twice the distance each time (1, 3, 7), later ones as soon as it suffices again.

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
        self._share = float(share)
        self._clock = clock
        self._start = clock()
        self._spent = 0.0
        self._last_cost = 0.0
        self._next = 0
        self._step = 0

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
        self._step = max(self._step, step)
        if step < self._next:
            return False
        if step == 0 or self._affordable(_SAMPLES_SHARE):
            self._next = max(step + 1, step + step // _SPREAD)
            return True
        # Reading the clock at every step has a cost, too: check again after a pause.
        pause = step + 1 if step < _FIRST_STEPS else step // (8 * _SPREAD)
        self._next = step + max(1, pause)
        return False

    def stop(self) -> None:
        """Sample no further step."""
        self._next = 1 << 62

    def affordable(self) -> bool:
        """Return whether evaluating the rules, or one more sample, stays within the allowance."""
        return self._affordable(1.0)

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

    def _affordable(self, part: float) -> bool:
        elapsed = self._clock() - self._start
        # A quarter of the minute's allowance for the first step, and a quarter more each time there are ten times as
        # many steps, so that costly samples do not use it up at the start.
        minute = _MINUTE * min(1.0, (1 + math.log10(1 + self._step)) / 4)
        return self._spent + _HOOK * self._step + self._last_cost <= part * self._share * max(minute, elapsed)


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

    def _affordable(self, part: float) -> bool:
        return True
