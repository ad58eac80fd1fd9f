"""Sampled steps that several processes measure together, in one process: sums come when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from autotrainer.backends.pytorch.ranks.handshake import Agreement
from autotrainer.backends.pytorch.ranks.joint_steps import JointSteps, Totals
from autotrainer.monitoring.ranks.comparison import RANK_COLUMNS
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.signals import Floats

WIDTH = 3
ROW = np.ones(len(RANK_COLUMNS))


@dataclass
class Operation:
    """A sum over two processes, which is there once both have given their arrays."""

    arrays: dict[int, Floats] = field(default_factory=dict)
    failed: bool = False

    @property
    def done(self) -> bool:
        return self.failed or len(self.arrays) == 2

    def wait(self, seconds: float) -> bool:
        return self.done

    def result(self) -> Floats:
        if self.failed:
            raise ConnectionError("connection reset")
        return sum(self.arrays.values(), np.zeros(()))


class Wire:
    """Connects two processes."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def group(self, rank: int) -> Any:
        wire, given = self, [0]

        class Group:
            def add_up(self, values: Floats) -> Operation:
                if given[0] == len(wire.operations):
                    wire.operations.append(Operation())
                operation = wire.operations[given[0]]
                operation.arrays[rank] = values
                given[0] += 1
                return operation

            def leave(self) -> None:
                pass

        return Group()


class Process:
    """A training whose steps are sampled together with that of another process."""

    def __init__(self, wire: Wire, rank: int) -> None:
        self.rank, self.step = rank, 0
        sampler = Sampler(1.0)
        sampler.due(0)
        self.joint = JointSteps(Agreement((0, 1), 1, (), together=True), wire.group(rank), rank, WIDTH, 0, sampler)
        self.recorded: list[tuple[int, Totals | None]] = []
        self.sampled = [0]
        self.error = False
        self.stops: list[int] = []
        self._give(0)

    def _give(self, step: int) -> None:
        record: Callable[[Totals | None], None] = lambda totals: self.recorded.append((step, totals))  # noqa: E731
        self.joint.give(step, np.full(WIDTH, self.rank + 1.0), ROW, record, stop=self.error)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step += 1
            if self.joint.due(self.step):
                self.sampled.append(self.step)
                self._give(self.step)
            if self.joint.stop:
                self.stops.append(self.step)


def pair() -> tuple[Process, Process]:
    wire = Wire()
    return Process(wire, 0), Process(wire, 1)


def test_processes_in_step_sample_the_same_steps_and_add_up() -> None:
    one, other = pair()
    for _ in range(100):
        one.run(1)
        other.run(1)
    one.joint.settle()
    assert one.sampled == other.sampled
    assert [step for step, _ in one.recorded] == one.sampled
    assert other.recorded == [], "the first process reports"
    assert all(totals is not None and totals.complete for _, totals in one.recorded)
    first = one.recorded[0][1]
    assert first is not None
    assert first.sums.tolist() == [3.0] * WIDTH
    assert first.ranks.tolist() == [ROW.tolist()] * 2


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_process_that_is_ahead_waits_for_nobody_and_the_other_catches_up(ahead: int) -> None:
    processes = pair()
    processes[ahead].run(6)
    processes[1 - ahead].run(6)
    for _ in range(60):
        for process in processes:
            process.run(1)
    processes[0].joint.settle()
    recorded = [step for step, _ in processes[0].recorded]
    assert recorded == processes[0].sampled
    assert processes[0].recorded[-1][1] is not None
    missed = set(processes[0].sampled) - set(processes[1].sampled)
    incomplete = {step for step, totals in processes[0].recorded if totals is None or not totals.complete}
    assert incomplete == missed
    assert not missed or ahead == 1


def test_an_error_stops_all_processes_at_the_same_step() -> None:
    processes = pair()
    for step in range(60):
        processes[0].error = step >= 20
        for process in processes:
            process.run(1)
    assert processes[0].stops[0] == processes[1].stops[0]
    assert processes[0].stops[0] > 20


def test_a_process_that_has_ended_is_noticed() -> None:
    one, _ = pair()
    with pytest.raises(ConnectionError, match="no longer take part"):
        one.run(10_000)
    one.joint.leave()
    assert [step for step, _ in one.recorded] == one.sampled
    assert one.recorded[-1] == (one.sampled[-1], None)


def test_a_connection_that_is_lost_is_noticed() -> None:
    wire = Wire()
    one, other = Process(wire, 0), Process(wire, 1)
    one.run(3)
    other.run(1)
    for operation in wire.operations:
        operation.failed = not operation.done
    with pytest.raises(ConnectionError, match="connection reset"):
        one.run(3)


def test_settling_records_what_has_not_come() -> None:
    one, _ = pair()
    one.run(3)
    one.joint.settle(0.0)
    assert [step for step, _ in one.recorded] == one.sampled
    assert one.joint.oldest is None
