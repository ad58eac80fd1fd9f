from __future__ import annotations

import sys

import pytest

from autotrainer.monitoring.sampler import Sampler


class SimulatedClock:
    """A clock in seconds for monitors: each reading takes 10 µs, and the rest of the time passes on request."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._jump, self._readings = 0.0, 0

    def __call__(self) -> float:
        """Return the present time."""
        self._now += 1e-5
        if self._readings:
            self._readings -= 1
            if not self._readings:
                self._now += self._jump
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def jump(self, seconds: float, *, after: int) -> None:
        """Let the clock jump, forward or back, after so many readings from now."""
        self._jump, self._readings = seconds, after


@pytest.fixture
def simulated_clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedClock:
    """The clock of all monitors. Import the backend before."""
    clock = SimulatedClock()
    for name, module in list(sys.modules.items()):
        if name.startswith("autotrainer.") and hasattr(module, "perf_counter"):
            monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(Sampler.__init__, "__defaults__", (0.01, clock))
    return clock
