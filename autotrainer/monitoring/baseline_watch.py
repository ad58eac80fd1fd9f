"""Compares a watched run with its baseline while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

if TYPE_CHECKING:
    from autotrainer.reporting.comparison import Comparison

__all__ = ["BaselineWatch", "Compare"]

_FIRST, _SECONDS = 15, 0.05
"""Step at which the run is compared with its baseline, then each time that there are twice as many; and seconds that it
takes, until that is known."""

Compare = Callable[[RunHistory, TaskContext, Sequence[Finding]], "Comparison"]


class BaselineWatch:
    """The latest comparison of a run with its baseline.

    Args:
        compare: Compares them, given history, context and findings; None without a baseline.
        guard: Returns a context manager that keeps exceptions of a part of the monitor away from the training.
        note: Logs a sentence.
    """

    def __init__(self, compare: Compare | None, guard: Callable[[str], Any], note: Callable[[str], None]) -> None:
        self._compare, self._guard, self._note = compare, guard, note
        self._latest: tuple[int, Comparison] | None = None
        self._next, self._cost, self._parted = _FIRST, _SECONDS, False

    @property
    def active(self) -> bool:
        """Whether there is a baseline."""
        return self._compare is not None

    def stop(self) -> None:
        """Compare no more: another process does."""
        self._compare = None

    def compared(self, history: RunHistory, context: TaskContext, findings: Sequence[Finding]) -> Comparison | None:
        """Return how the run differs from its baseline; None without one."""
        if self._compare is not None and (self._latest is None or self._latest[0] != history.changes):
            with self._guard("the comparison with the baseline"):
                self._latest = history.changes, self._compare(history, context, findings)
        return None if self._latest is None else self._latest[1]

    def report(self, history: RunHistory, context: TaskContext, findings: Sequence[Finding]) -> None:
        """Log, once, that the run differs from its baseline by more than chance."""
        if self._compare is not None and not self._parted:
            comparison = self.compared(history, context, findings)
            if comparison is not None and (comparison.differs or comparison.worse):
                self._parted = True
                self._note(comparison.brief)

    def report_if_due(
        self,
        history: RunHistory,
        context: TaskContext,
        findings: Callable[[], Sequence[Finding]],
        affordable: Callable[[float], bool],
    ) -> None:
        """Do so at a few steps, if time allows.

        Args:
            history: The measurements.
            context: The context.
            findings: Returns the findings.
            affordable: Returns whether what takes so many seconds stays within the allowance.
        """
        if history.step >= self._next and affordable(self._cost):
            self._next, started = 2 * history.step, perf_counter()
            self.report(history, context, findings())
            self._cost = perf_counter() - started
