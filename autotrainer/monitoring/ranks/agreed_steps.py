"""Steps that several processes sample together: one of them decides, two samples ahead."""

from __future__ import annotations

from collections import deque
from typing import Protocol

__all__ = ["AgreedSteps"]


class _Schedule(Protocol):
    def following(self, step: int, now: int) -> int:
        """Return the first step after a step that is to be sampled."""


class AgreedSteps:
    """The steps that are sampled, as this process knows them.

    The process that leads chooses a step when the one before the latest that it has chosen has been sampled, and sends
    its choice along with that sample. So the others have it when they need it, and nobody waits.

    Args:
        start: The first sampled step, which has ended. The one after it is the second.
        schedule: Chooses the steps in the process that leads; None in the others.
    """

    def __init__(self, start: int, schedule: _Schedule | None) -> None:
        self._start, self._schedule = start, schedule
        self._coming = deque([start + 1])
        self._latest = start + 1

    @property
    def next(self) -> int | None:
        """The next sampled step; None if it is not known yet."""
        return self._coming[0] if self._coming else None

    def take(self) -> None:
        """Count the next sampled step as sampled, or as missed."""
        self._coming.popleft()

    def choose(self, now: int, *extra: int) -> float:
        """Return the choice to be sent: how long after the first sampled step the next one to be known is.

        Args:
            now: The present step.
            *extra: Further steps to be sampled, as far as they have not begun.
        """
        if self._schedule is None:
            return 0.0
        candidates = [step for step in extra if step > self._latest]
        self._latest = min([self._schedule.following(self._latest, now), *candidates])
        self._coming.append(self._latest)
        return float(self._latest - self._start)

    def learn(self, choice: float) -> None:
        """Take the choice of the process that leads."""
        if self._schedule is None:
            self._coming.append(self._start + int(choice))
