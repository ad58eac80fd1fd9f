"""Selects the steps to measure: few, spread over the run, within the allowed overhead."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.edits.base import is_number, shorten
from autotrainer.errors import ConfigError

__all__ = ["Sampler", "StepSampler", "is_milestone"]

_DENSE, _SPARSE = 16, 8
"""Samples per doubling of the steps: in the first 512 steps, and later."""
_DENSE_STEPS = 512
_COARSEST = 4
"""Each level of density halves the one before; at the coarsest the first samples are at steps 0, 1, 3, 7, 15, ...."""
_MINUTE = 60.0
"""Seconds of training that the allowance covers from the start: nobody minds a second, and short runs need it."""
_FIRST_SECOND = 1.0
"""Most seconds that monitoring takes in a short run."""
_SAMPLES_SHARE, _PLANNED_SHARE = 0.85, 0.75
"""Share of the allowance that samples may use, so that the rules are still evaluated in a short or slow run, and the
share for which they are planned: costs vary."""
_STAGES = (10, 14, 17)
"""Octaves at which stages of a run end, for which the density is planned: 1,000, 16,000 and 130,000 steps. Two samples
for each octave of the later stages are paid in advance."""
_HOOK = 2.5e-6
"""Seconds that the hooks take in a step that is not sampled."""
_MILESTONES = 4
"""Milestones per doubling of the epochs."""
_NEVER = 1 << 62
_RECENT_COSTS, _FEW = 15, 5
"""Latest samples whose median cost is that expected of the next one; of few, the minimum."""


class Sampler:
    """Decides which steps are sampled: by step numbers, at one of few densities that the allowance suffices for.

    The allowance is ``share`` of the training time, at least of one minute, but at most a second before that time.
    The steps up to each power of two form an octave, in which samples are evenly spaced. At the start of an octave, a
    density is chosen that the usual cost of a sample allows; the steps of a lower density are part of a higher one's.
    So small differences of clocks rarely change which steps are sampled. In short runs the cost is that of the work,
    without the time that other processes of a busy machine take.

    Steps count from the first one that is asked about: a training resumed at a high step has early samples, too.

    Args:
        share: Share of the training time that monitoring may cost, in (0, 1]; 1 sets no limit.
        clock: Wall clock in seconds.
        processor: Clock of the processor time in seconds; None: that of this process, or another ``clock`` itself.

    Attributes:
        stopwatch: Measures all that monitoring does.
        evaluations: Measures the part of it that is no sample.
        kept: Share of the allowance that is left for the end of the training.

    Raises:
        ConfigError: If the share is out of range.
    """

    def __init__(
        self,
        share: float = 0.01,
        clock: Callable[[], float] = perf_counter,
        *,
        processor: Callable[[], float] | None = None,
    ) -> None:
        if not is_number(share) or not 0 < share <= 1:
            raise ConfigError(
                f"overhead must be a share in (0, 1], not {shorten(share)}; 0.01 allows 1% of the training time"
            )
        self._share = float(share)
        self._clock = clock
        self._start = clock()
        if processor is None:
            processor = process_time if clock is perf_counter else clock
        self.stopwatch = Stopwatch(clock, processor)
        self.evaluations = Stopwatch(clock, processor)
        self.kept = 0.0
        self._mark = self._spent = 0.0, 0.0
        self._costs: deque[tuple[float, float]] = deque(maxlen=_RECENT_COSTS)
        self._expected = 0.0, 0.0
        self._count = 0
        self._octave, self._level = -1, 0
        self._stage_start = self._stage_end = self._before_stage = 0
        self._first: int | None = None  # the step that all others below count from
        self._next = 0
        self._step = 0
        self._ahead = 0.0  # seconds from now to the step in question

    @property
    def spent(self) -> float:
        """Seconds that monitoring has cost so far."""
        return self.stopwatch.work

    @property
    def next_step(self) -> int:
        """The earliest step that may be sampled; a cheap check before calling `due`."""
        return self._next + (self._first or 0)

    def due(self, step: int) -> bool:
        """Return whether to sample a step.

        Args:
            step: 0-based step that is about to begin.

        Returns:
            True if it is to be sampled; the caller then measures it within `stopwatch` and calls `end_sample`.
        """
        if self._first is None:
            self._first = step
        return self._due(step - self._first)

    def _due(self, step: int) -> bool:
        self._step = max(self._step, step)
        if step < self._next:
            return False
        position = step + 1
        octave = position.bit_length() - 1
        starts = position == 1 << octave  # of every density; the one of the octave is chosen when it has been measured
        if not starts and octave != self._octave:
            self._octave, self._level = octave, self._affordable_level(octave)
        gap = 1 if starts else _gap(octave, self._level)
        self._next = step + gap - position % gap
        if position % gap:
            return False
        if step == 0 and not any(self._expected):
            return True
        if self._covers_sample() if self._count else self._covers_first_sample():
            return True
        gap = min(2 * _gap(octave, self._level), 1 << octave)
        self._next = step + gap - position % gap
        return False

    def following(self, step: int, now: int) -> int:
        """Return the first step after a step that is to be sampled, if the training keeps its pace.

        Args:
            step: The step; those that follow it count as asked for.
            now: The present step.
        """
        first = self._first or 0
        step, now = step - first, now - first
        pace = (self._clock() - self._start) / (now + 1)
        candidate = max(step + 1, self._next)
        try:
            while candidate < _NEVER:
                self._ahead = max(0, candidate - now) * pace
                if self._due(candidate):
                    break
                candidate = max(candidate + 1, self._next)
        finally:
            self._ahead, self._step = 0.0, now
        return candidate + first

    def skip(self, steps: int) -> None:
        """Renumber the steps: so many more have been taken before the first one that was asked about."""
        if self._first is not None:
            self._first += steps

    def expect(self, work: float, wall: float) -> None:
        """Expect the first sample to cost so many seconds: it then waits until the allowance covers that.

        Args:
            work: Seconds of work.
            wall: Seconds by the wall clock.
        """
        self._expected = work, wall

    def allows_extra(self) -> bool:
        """Return whether to sample a step outside the schedule: only where the highest density is affordable."""
        return not self._level and self._covers_sample()

    def stop(self) -> None:
        """Sample no further step."""
        self._next = _NEVER

    @property
    def stopped(self) -> bool:
        """Whether no further step is sampled."""
        return self._next == _NEVER

    def affordable(self, cost: float = 0.0) -> bool:
        """Return whether what is no sample, such as evaluating the rules, stays within the allowance.

        Args:
            cost: Seconds that it is expected to take, if that is known.
        """
        start, proportional = self._whole(self._step), self._allowance(self._step)[1]
        return self._allows((1 - self.kept) * start, (1 - self.kept) * proportional, self._total, (cost, cost))

    def begin_sample(self) -> None:
        """Note that a sample begins: what `stopwatch` measures from now on is its cost, except for `evaluations`."""
        self._mark = self._measured

    def end_sample(self) -> None:
        """Account for the sample that began with `begin_sample`."""
        (work, wall), (work_before, wall_before) = self._measured, self._mark
        self._add_sample((work - work_before, wall - wall_before))

    def _covers_first_sample(self) -> bool:
        """Return whether the allowance of a short run, or the time so far, covers all that the first sample costs."""
        if not any(self._expected):
            return self._covers_sample()
        return self._allows(self._whole(self._step), self._allowance(self._step)[1], self._total, self._expected)

    def _covers_sample(self) -> bool:
        cost = self._cost if self._costs else (0.0, 0.0)
        start, proportional = self._allowance(self._step)
        return self._allows(_SAMPLES_SHARE * start, _SAMPLES_SHARE * proportional, self._spent, cost) and (
            self._allows((1 - self.kept) * self._whole(self._step), (1 - self.kept) * proportional, self._total, cost)
        )

    @property
    def _total(self) -> tuple[float, float]:
        return self.stopwatch.work, self.stopwatch.wall

    @property
    def _measured(self) -> tuple[float, float]:
        total, rest = self.stopwatch, self.evaluations
        return total.work - rest.work, total.wall - rest.wall

    @property
    def _cost(self) -> tuple[float, float]:
        """Expected cost of a sample: work and wall time."""
        usual = median if len(self._costs) >= _FEW else min  # other processes only ever add to a cost
        return usual(work for work, _ in self._costs), usual(wall for _, wall in self._costs)

    def _add_sample(self, cost: tuple[float, float]) -> None:
        self._spent = self._spent[0] + cost[0], self._spent[1] + cost[1]
        self._count += 1
        if self._count == 2:  # the first one has warmed up what all others use
            self._costs.clear()
        self._costs.append(cost)

    def _allows(self, start: float, proportional: float, spent: tuple[float, float], cost: tuple[float, float]) -> bool:
        """Return whether an allowance covers what was spent and a further cost."""
        return self._share == 1 or spent[0] + cost[0] <= start or spent[1] + cost[1] <= proportional

    def _whole(self, step: int) -> float:
        """Return the seconds of work that are allowed in any run, but for the hooks up to a step."""
        return min(_FIRST_SECOND, self._share * _MINUTE) - _HOOK * step

    def _allowance(self, step: int) -> tuple[float, float]:
        """Return the seconds of work that are allowed up to a step in any run, and the seconds in a run so long."""
        # A fifth for the first step, and a fifth more each time there are ten times as many steps, so that costly
        # samples do not use up the allowance at the start.
        start = self._whole(step) * min(1.0, (1 + math.log10(1 + step)) / 5)
        return start, self._share * (self._clock() + self._ahead - self._start) - _HOOK * step

    def _affordable_level(self, octave: int) -> int:
        """Return the highest density, as the number of halvings, that the allowance suffices for."""
        if self._share == 1 or not self._costs:
            return 0
        end = next((each for each in _STAGES if octave < each), octave + 1)
        if end != self._stage_end:
            self._stage_end, self._stage_start, self._before_stage = end, octave, self._count
        start = self._whole(2 << octave)
        proportional = self._allowance(1 << octave)[1]
        reserve = 2 * max(0, _STAGES[-1] - end)
        work, wall = self._cost
        for level in range(_COARSEST):
            stage = self._before_stage + sum(_samples(each, level) for each in range(self._stage_start, end)) + reserve
            if stage * work <= _PLANNED_SHARE * start:
                return level
            if (self._count + _samples(octave, level)) * wall <= _PLANNED_SHARE * proportional:
                return level
        return _COARSEST


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

    def allows_extra(self) -> bool:
        """Return False: managed trainings are sampled by the schedule alone."""
        return False


def is_milestone(number: int) -> bool:
    """Return whether rules are evaluated after an epoch, and its last step is sampled: each of the first, then fewer.

    Args:
        number: 0-based epoch.
    """
    position = number + 1
    return position % max(1, (1 << position.bit_length() - 1) // _MILESTONES) == 0


def _samples(octave: int, level: int) -> int:
    """Return the number of samples in an octave of steps, at a level of density."""
    return (1 << octave) // _gap(octave, level)


def _gap(octave: int, level: int) -> int:
    """Return the distance of samples in an octave of steps, at a level of density."""
    steps = 1 << octave
    per_octave = _DENSE if steps < _DENSE_STEPS else _SPARSE
    return int(min(steps, max(1, steps // per_octave << level)))
