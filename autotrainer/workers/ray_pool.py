"""Trainings in the processes of a Ray cluster that is there: ``workers="ray"``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autotrainer.errors import ConfigError

__all__ = ["RayPool", "cluster"]


def cluster() -> int:
    """Connect to the cluster that runs, and return its number of CPU cores.

    Raises:
        ConfigError: If Ray is missing, or there is no cluster.
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
    """Runs a function in processes of the cluster: the part of a pool of processes that `WorkerPool` uses.

    Args:
        begin: Prepares a process.
        arguments: Its arguments, sent once.
    """

    def __init__(self, begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        import ray

        self._begin = begin
        self._arguments = [ray.put(argument) for argument in arguments]
        self._remote = ray.remote(max_retries=1)(_prepared)
        self._given: list[_Promise] = []

    def submit(self, work: Callable[..., Any], *arguments: Any) -> _Promise:
        """Begin a call."""
        promise = _Promise(self._remote.remote(self._begin, work, arguments, *self._arguments))
        self._given.append(promise)
        return promise

    def shutdown(self, *, wait: bool, kill_workers: bool) -> None:
        """End all calls; the cluster stays."""
        import ray

        for promise in self._given:
            if not promise.done():
                ray.cancel(promise.reference, force=kill_workers)


@dataclass(frozen=True)
class _Promise:
    """A call that may have ended."""

    reference: Any

    def done(self) -> bool:
        """Say whether it has ended."""
        import ray

        return bool(ray.wait([self.reference], timeout=0)[0])

    def result(self) -> Any:
        """Wait for what it returns.

        Raises:
            Exception: What it raised; or that its process was lost, twice.
        """
        import ray

        return ray.get(self.reference)


def _prepared(begin: Callable[..., None], work: Callable[..., Any], given: tuple[Any, ...], *arguments: Any) -> Any:
    """Run a call in a process that is prepared, once for each request."""
    begin(*arguments)
    return work(*given)
