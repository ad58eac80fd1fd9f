"""One process of several, without the others: what it does before, and without, an agreement."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

import autotrainer
from autotrainer.api.replay import recorded_run
from autotrainer.backends.pytorch.ranks import handshake
from autotrainer.backends.pytorch.ranks.processes import several_ranks
from autotrainer.backends.pytorch.ranks.rank_watch import RankWatch
from autotrainer.backends.pytorch.ranks.side_group import SideGroup
from autotrainer.backends.pytorch.runtime.torch_private import default_store

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="PyTorch without torch.distributed")

Connect = Callable[[int], None]


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Makes this process one of two, of which the other never comes: ``connect(rank)``."""
    import torch.testing._internal.distributed.fake_pg  # noqa: F401 - registers the backend

    monkeypatch.setattr(handshake, "_SYNCHRONIZED", 0.05)
    monkeypatch.setattr(handshake, "_FREE", 0.05)

    def make(rank: int) -> None:
        dist.init_process_group("fake", store=dist.HashStore(), rank=rank, world_size=2)

    yield make
    if dist.is_initialized():
        dist.destroy_process_group()


def training(**options: Any) -> tuple[Any, Callable[..., None]]:
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)

    def step(scale: float = 1.0) -> None:
        x = torch.randn(8, 4, generator=generator)
        optimizer.zero_grad()
        loss_fn(model(x * scale), x[:, :1]).backward()
        optimizer.step()

    return autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0, **options), step


def test_processes_that_connect_after_watch_are_named(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    monitor, step = training()
    connect(0)
    with caplog.at_level(logging.WARNING, logger="autotrainer"):
        for _ in range(3):
            step()
        monitor.close()
    said = [message for message in caplog.messages if "connected after watch was called" in message]
    assert len(said) == 1
    assert said[0] in monitor.report().to_dict()["run"]["notes"]
    assert monitor.history.steps.tolist() == [0, 1, 2]


@pytest.mark.parametrize("leader_watches", [True, False])
def test_log_of_a_process_without_a_step(connect: Connect, tmp_path: Path, leader_watches: bool) -> None:
    connect(1)
    monitor, _ = training(log_dir=tmp_path)
    if leader_watches:
        dist.PrefixStore(f"autotrainer/{handshake._watches}", default_store()).set("watching/0", "1")
    assert not list(tmp_path.iterdir()), "nothing is written before it is known who reports"
    monitor.close()
    assert (monitor.follows, len(list(tmp_path.iterdir()))) == (leader_watches, 1 - leader_watches)


def test_a_process_without_the_others_reports_itself(connect: Connect, tmp_path: Path) -> None:
    connect(1)
    problems: list[str] = []
    monitor, step = training(log_dir=tmp_path, on_finding=lambda finding: problems.append(finding.problem))
    for _ in range(65):  # neither of the next two steps is sampled
        step()
    assert not monitor.follows
    assert not monitor.observer.sampling
    step(float("nan"))
    assert "nonfinite" in problems, "it is reported at once"
    monitor.close()
    assert "Not all 2 processes" in monitor.report().to_dict()["run"]["notes"][0]
    history, _ = recorded_run(monitor.log_path)
    assert history.steps.tolist()[:3] == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without os.fork")
def test_a_forked_child_is_none_of_the_processes(connect: Connect) -> None:
    connect(1)
    assert several_ranks()
    child = os.fork()
    if not child:
        os._exit(several_ranks())
    assert os.waitpid(child, 0)[1] == 0
    assert several_ranks()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without os.fork")
def test_a_forked_child_does_not_wait_for_the_threads_of_its_parent() -> None:
    store = dist.HashStore()
    with ThreadPoolExecutor(2) as pool:
        groups = list(pool.map(lambda rank: SideGroup(store, (0, 1), rank), range(2)))
        sums = [group.add_up(np.ones(2)) for group in groups]
    assert all(each.wait(30) for each in sums)
    child = os.fork()
    if not child:
        signal.alarm(30)
        groups.clear()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert [each.result().tolist() for each in sums] == [[2.0, 2.0]] * 2


class _Parts:
    """Steps that are measured together, until other processes no longer take part."""

    stop, leads = False, True

    def due(self, step: int) -> bool:
        raise ConnectionError("another process has ended")

    def leave(self) -> None:
        pass


def test_the_first_process_stops_no_loop_alone(connect: Connect) -> None:
    connect(0)
    monitor, step = training()
    step()
    ranks: RankWatch = monitor.observer._ranks._ranks
    assert monitor.should_stop is False
    ranks._steps = _Parts()  # type: ignore[assignment]
    monitor.record_losses([(1, float("inf"))])
    assert "nonfinite" in {finding.problem for finding in monitor.findings}
    ranks.due(1)
    assert not ranks.joint
    assert monitor.should_stop is False, "the other process does not know of the error, and would wait"
    monitor.close()
