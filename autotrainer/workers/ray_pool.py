"""Trainings in the processes of a running Ray cluster: ``workers="ray"``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from autotrainer.errors import ConfigError

__all__ = ["RayPool", "connect"]

_NODE_CHECK = 5.0
"""Seconds between two checks whether the cluster still has a CPU core to run a call on."""


def connect() -> int:
    """Connect to the running cluster, and return its number of CPU cores.

    Raises:
        ConfigError: If Ray is not installed, or no cluster is running.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "workers='ray' needs Ray: pip install 'autotrainer-monitor[ray]', or give a number of processes"
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address="auto", log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(
                "workers='ray' finds no Ray cluster: start one (ray start --head), or give a number of processes"
            ) from error
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


class RayPool:
    """Calls functions in processes of the cluster: the part of a process pool's interface that `WorkerPool` uses.

    A call whose process or node is lost is made once more. It is not if memory ran out: Ray itself would repeat such a
    call without end. If the head node is lost, Ray ends the program that is connected to it after a minute.

    Args:
        initialize: Prepares a process.
        arguments: Its arguments, sent once.
    """

    def __init__(self, initialize: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        import ray

        self._initialize = initialize
        self._arguments = [ray.put(argument) for argument in arguments]
        self._remote = ray.remote(max_retries=0)(_call)
        self._futures: list[_Future] = []

    def submit(self, function: Callable[..., Any], *arguments: Any) -> _Future:
        """Submit a call."""
        start = partial(self._remote.remote, self._initialize, function, arguments, *self._arguments)
        future = _Future(start, start())
        self._futures.append(future)
        return future

    def shutdown(self, *, wait: bool, kill_workers: bool) -> None:
        """Cancel all calls; the cluster keeps running. If it is gone, nothing is left to cancel."""
        import ray

        with suppress(Exception):
            for future in self._futures if ray.is_initialized() else ():
                if not future.done():
                    ray.cancel(future.reference, force=kill_workers)


@dataclass
class _Future:
    """A submitted call, and how to submit it again."""

    start: Callable[[], Any]
    reference: Any

    def done(self) -> bool:
        """Return whether it has ended."""
        import ray

        return bool(ray.wait([self.reference], timeout=0)[0])

    def result(self) -> Any:
        """Wait for its result.

        Raises:
            RuntimeError: If no node that can run it is left.
            Exception: What the call raised; or an error of Ray if its process was lost twice, or memory ran out.
        """
        from ray.exceptions import NodeDiedError, ObjectLostError, WorkerCrashedError

        try:
            return self._wait()
        except (WorkerCrashedError, NodeDiedError, ObjectLostError):
            self.reference = self.start()
            return self._wait()

    def _wait(self) -> Any:
        import ray

        while not ray.wait([self.reference], timeout=_NODE_CHECK)[0]:
            if ray.cluster_resources().get("CPU", 0) < 1:
                raise RuntimeError("no node of the Ray cluster with a CPU core is left")
        return ray.get(self.reference)


def _call(
    initialize: Callable[..., None], function: Callable[..., Any], arguments: tuple[Any, ...], *initargs: Any
) -> Any:
    """Run a call in a process that is prepared once per request."""
    initialize(*initargs)
    return function(*arguments)
