"""Many epochs: the log grows with the logarithm of their number, and `replay` finds in it what the run found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from autotrainer.api.replay import read_run
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.logs.log_reader import EpochRecord, read_log
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo, Observation
from autotrainer.records.task import TaskContext
from autotrainer.rule import Rule


class Reader(Rule):
    """Notes all that it sees of the epochs, whenever it is evaluated."""

    problem = "reader"
    code = "AT981"
    needs = frozenset({"loss"})
    noted: ClassVar[list[object]] = []

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        values = {name: [each.tolist() for each in history.epochs(name)] for name in history.epoch_names}
        place = history.step, history.epoch, history.epoch_of_step
        self.noted.append((place, history.ended_epochs.tolist(), history.epoch_ends.tolist(), values))
        return None


def train(
    folder: Path, marks: Sequence[int], rules: Sequence[Rule] = (), *, counted: bool = False, polled: bool = False
) -> tuple[Monitor, list[int]]:
    """Train with one step an epoch, and return the monitor and the bytes of the log after so many epochs.

    Args:
        folder: Folder of the log.
        marks: After how many epochs.
        rules: Active rules.
        counted: Whether the epochs are counted, as each step is found to be one; else the loop ends them.
        polled: Whether the loop asks for findings in each epoch.
    """
    sampler = Sampler(1.0)
    monitor = Monitor(rules, sampler, log_dir=folder)
    monitor.begin(TaskContext(layers=(LayerInfo("a"),)))
    sizes = []
    for epoch in range(marks[-1]):
        sampled = sampler.due(epoch)
        if counted and sampled:
            monitor.count_epochs(range(monitor.history.epoch, epoch))
        if sampled:
            monitor.record(Observation(epoch, np.full((1, len(LAYER_COLUMNS)), np.nan), 1 / (1 + epoch)))
        monitor.advance(epoch)
        if not counted:
            monitor.end_epoch(loss=1 / (1 + epoch), **({"val_loss": 0.5} if epoch % 3 == 0 else {}))
        if polled:
            assert not monitor.should_stop
        if epoch + 1 in marks:
            assert monitor.log_path is not None
            sizes.append(monitor.log_path.stat().st_size)
    return monitor, sizes


@pytest.mark.parametrize(("counted", "polled", "last"), [(True, False, 5), (False, False, 4), (False, True, 4)])
def test_log_grows_with_the_logarithm_of_the_epochs(tmp_path: Path, counted: bool, polled: bool, last: int) -> None:
    marks = [10**3, 10**4, 10**5] if last == 5 else [1000, 4000, 16_000]
    monitor, sizes = train(tmp_path, marks, counted=counted, polled=polled)
    per_factor = np.diff(sizes)
    assert per_factor[1] < 1.4 * per_factor[0], "each factor of steps adds the same"
    assert sizes[-1] < 1_500_000
    assert monitor.history.bytes < 2**21
    monitor.close()


@pytest.mark.parametrize("counted", [False, True])
def test_replay_sees_what_the_run_saw(tmp_path: Path, counted: bool) -> None:
    Reader.noted.clear()
    monitor, _ = train(tmp_path, [5000], [Reader()], counted=counted)
    monitor.close()
    live = Reader.noted[:]
    Reader.noted.clear()
    assert monitor.log_path is not None
    run = read_run(monitor.log_path, Engine([Reader()]))
    assert Reader.noted == live
    assert len(live) > 30
    assert (run.history.epoch, run.history.step) == (monitor.history.epoch, monitor.history.step)


def test_log_of_a_usual_run_has_each_epoch_at_once(tmp_path: Path) -> None:
    monitor, _ = train(tmp_path, [600])
    assert monitor.log_path is not None
    epochs = [record.epoch for record in read_log(monitor.log_path) if isinstance(record, EpochRecord)]
    assert epochs == list(range(600))
    monitor.close()


def test_log_of_a_crashed_run_lacks_few_epochs(tmp_path: Path) -> None:
    monitor, _ = train(tmp_path, [5001])
    assert monitor.log_path is not None
    run = read_run(monitor.log_path, Engine(()))  # as nothing more was written
    assert 4990 < run.history.epoch <= 5001
    monitor.close()
