"""`fit(workers="ray")`: the result equals that of one process, whatever the cluster loses. Skipped without Ray."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrainer.edits import Edit, SetMomentum
from autotrainer.workers.worker_pool import WorkerPool

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
BUDGET = 6.0


@pytest.fixture
def start_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Starts a cluster whose head runs nothing, with nodes of one core, and connects to it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # a checkout need not be installed
    clusters = []

    def start(nodes: int = 2, **settings: Any) -> tuple[Any, list[Any]]:
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": settings})
        clusters.append(cluster)
        added = [cluster.add_node(num_cpus=1) for _ in range(nodes)]
        ray.init(address=cluster.address, log_to_driver=False)
        return cluster, added

    yield start
    ray.shutdown()
    for cluster in clusters:
        cluster.shutdown()


def _in_worker(action: Callable[[], Any], edits: tuple[Edit, ...] = (), once: Path | None = None) -> Any:
    """Return a callback that does something at the beginning of a training in another process."""
    parent = os.getpid()

    def act(edits_of_training: tuple[Edit, ...], number: int) -> None:
        if os.getpid() == parent or not set(edits) <= set(edits_of_training):
            return
        if once is not None:
            if once.exists():
                return
            once.touch()
        action()

    return act


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _same(story: Any, callback: Any, caplog: pytest.LogCaptureFixture) -> str:
    """Check that Ray gives the result of one process, and return what was logged."""
    alone = story.fit(callback, budget=BUDGET)
    caplog.clear()
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(story.fit(callback, budget=BUDGET, workers="ray")), daemon=True
    )
    thread.start()
    thread.join(500)
    assert not thread.is_alive(), "it hangs"
    assert results == [alone]
    return caplog.text


def test_killed_processes_do_not_change_the_result(
    story: Any, start_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    start_cluster()
    momentum = (SetMomentum(0.9),)
    assert not _same(story, _in_worker(lambda: None), caplog)
    assert not _same(story, _in_worker(_kill, momentum, tmp_path / "killed"), caplog), "it is run once more"
    text = _same(story, _in_worker(_kill), caplog)
    assert 1 <= text.count("a worker process was lost") <= 3
    record_property("attacks", 3)


def test_lost_nodes_do_not_change_the_result(
    story: Any, start_cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    cluster, nodes = start_cluster()
    begun = tmp_path / "begun"

    def remove_when_begun(*lost: Any) -> None:
        begun.unlink(missing_ok=True)

        def remove() -> None:
            while not begun.exists():
                time.sleep(0.05)
            for node in lost:
                cluster.remove_node(node, allow_graceful=False)

        threading.Thread(target=remove, daemon=True).start()

    slow = _in_worker(lambda: time.sleep(5), once=begun)
    remove_when_begun(nodes[0])
    _same(story, slow, caplog)
    remove_when_begun(nodes[1])
    assert "run in this process" in _same(story, slow, caplog), "no node is left"
    record_property("attacks", 2)


def test_exhausted_memory_does_not_change_the_result(
    story: Any, start_cluster: Any, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    start_cluster(memory_usage_threshold=0.001, memory_monitor_refresh_ms=50)  # every process takes too much
    assert "run in this process" in _same(story, _in_worker(lambda: time.sleep(3)), caplog)
    record_property("attacks", 1)


def test_disconnecting_does_not_change_the_result(
    story: Any,
    start_cluster: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Any,
) -> None:
    import ray

    start_cluster()
    calls = [0]
    take = WorkerPool.take

    def disconnect(self: WorkerPool, *arguments: Any) -> Any:
        if self._futures:
            calls[0] += 1
            if calls[0] == 3:
                ray.shutdown()
        return take(self, *arguments)

    monkeypatch.setattr(WorkerPool, "take", disconnect)
    assert "run in this process" in _same(story, _in_worker(lambda: None), caplog)
    record_property("attacks", 1)
