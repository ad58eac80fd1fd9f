"""Sampled steps that several processes measure together: the same ones in all, added up in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotrainer.backends.pytorch.ranks.handshake import Agreement
from autotrainer.backends.pytorch.ranks.side_group import SideGroup, Sum
from autotrainer.monitoring.ranks.agreed_steps import AgreedSteps
from autotrainer.monitoring.ranks.comparison import RANK_COLUMNS
from autotrainer.records.signals import Floats

__all__ = ["JointSteps", "Totals"]

_PATIENCE = 1.0
"""Seconds that a process waits for the choice of the next step where the others are late: once, until they catch up."""
_MOST_PENDING = 16
"""Sampled steps that may wait for other processes; with more, these no longer take part."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What all processes together have measured in a step.

    Attributes:
        sums: The sums of the arrays that each process has given.
        ranks: Shape (ranks, `RANK_COLUMNS`).
        complete: Whether all processes have measured the step.
    """

    sums: Floats
    ranks: Floats
    complete: bool


@dataclass(slots=True)
class _Pending:
    """A sampled step whose sum is being made."""

    step: int
    sum: Sum
    record: Callable[[Totals | None], None] | None


class JointSteps:
    """The sampled steps of one watched training that its processes measure together.

    At the end of a sampled step each process gives an array, and trains on. The sums are there a little later, as long
    as all processes train in step; nobody waits for them but in `settle`, and for the choice of the next step, and
    there for a second at most.

    Args:
        agreement: What the processes have agreed on.
        group: Adds up.
        rank: The rank of this process.
        size: Length of the arrays.
        start: The first sampled step, which has ended.
        schedule: Chooses the sampled steps.
    """

    def __init__(self, agreement: Agreement, group: SideGroup, rank: int, size: int, start: int, schedule: Any) -> None:
        self.leads = rank == agreement.peers[0]
        """Whether this process decides and reports."""
        self._group, self._size = group, size
        self._index, self._ranks = agreement.peers.index(rank), len(agreement.peers)
        self._steps = AgreedSteps(start, schedule if self.leads else None)
        self._pending: deque[_Pending] = deque()
        self._late = False
        self._given = self._heard = 0
        self._stops: deque[tuple[int, bool]] = deque()
        self.stop = False
        """Whether the process that leads had found an error when the sampled step before the latest one ended: all
        processes then know it, at the same step."""

    @property
    def oldest(self) -> int | None:
        """The first sampled step that has not been recorded; None if all have been."""
        return next((each.step for each in self._pending if each.record is not None), None)

    @property
    def next_step(self) -> int:
        """The earliest step that this must be asked about; 0 if it must be asked at each."""
        following = self._steps.next
        return 0 if self._pending or following is None else following

    def due(self, step: int) -> bool:
        """Return whether to sample the step that is about to begin.

        Raises:
            ConnectionError: If other processes no longer take part.
        """
        self.poll()
        if self._steps.next is None and not self._late:
            self._late = not self._pending[0].sum.wait(_PATIENCE) if self._pending else False
            self.poll()
        while self._stops and self._stops[0][0] <= self._given - 2:
            self.stop = self._stops.popleft()[1]
        while (following := self._steps.next) is not None and following < step:
            self._steps.take()
            self._send(step, np.zeros(self._size), np.zeros(len(RANK_COLUMNS)), None, (), stop=False)
            self.poll()
        return following == step

    def give(
        self,
        step: int,
        array: Floats,
        row: Floats,
        record: Callable[[Totals | None], None],
        extra: Sequence[int] = (),
        *,
        stop: bool = False,
    ) -> None:
        """Give what this process has measured in a sampled step that has ended.

        Args:
            step: The step.
            array: What is added up.
            row: Shape (`RANK_COLUMNS`,): what this process tells the others.
            record: Called with the totals; with None if they have not come in time.
            extra: Further steps to be sampled.
            stop: Whether this process has found an error; counts if it leads.

        Raises:
            ConnectionError: If other processes no longer take part.
        """
        if self._steps.next == step:
            self._steps.take()
        self._send(step, array, row, record, extra, stop=stop)

    def poll(self) -> None:
        """Take the totals that have come, in the order of the steps.

        Raises:
            ConnectionError: If other processes no longer take part.
        """
        while self._pending and self._pending[0].sum.done:
            pending = self._pending.popleft()
            values = pending.sum.result()
            ranks = values[self._size : -2].reshape(self._ranks, -1)
            self._steps.learn(float(values[-1]))
            self._stops.append((self._heard, bool(values[-2])))
            self._heard += 1
            self._late = False
            if pending.record is not None:
                totals = Totals(values[: self._size], ranks, bool((ranks[:, 0] > 0).all()))
                pending.record(totals)
        if len(self._pending) > _MOST_PENDING:
            raise ConnectionError("the other processes no longer take part")

    def settle(self, seconds: float = _PATIENCE) -> None:
        """Have all steps recorded so far, without what other processes have not given in so many seconds."""
        for pending in list(self._pending):
            if pending.record is None or not pending.sum.wait(seconds):
                break
        self.poll()
        for pending in self._pending:
            record, pending.record = pending.record, None
            if record is not None:
                record(None)

    def leave(self) -> None:
        """Take part no longer, and have the rest recorded; nobody is waited for."""
        pending, self._pending = self._pending, deque()
        self._group.leave()
        for each in pending:
            if each.record is not None:
                each.record(None)

    def _send(
        self,
        step: int,
        array: Floats,
        row: Floats,
        record: Callable[[Totals | None], None] | None,
        extra: Sequence[int],
        *,
        stop: bool,
    ) -> None:
        ranks = np.zeros((self._ranks, len(RANK_COLUMNS)))
        ranks[self._index] = row
        choice = self._steps.choose(step + 1, *extra)
        values = np.concatenate([array, ranks.ravel(), [float(stop and self.leads), choice]])
        self._given += 1
        self._pending.append(_Pending(step, self._group.add_up(values), record if self.leads else None))
