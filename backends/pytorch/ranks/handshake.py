"""Finds out which processes of a training are watched, through the store by which they have found each other.

Keys are written and read, and nobody waits for a group: a process that is not watched can't keep the others waiting for
longer than the time-outs here, once.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import torch.distributed as dist

from autotrainer.backends.pytorch.runtime.torch_private import default_store, prefix_store

__all__ = ["Agreement", "Handshake"]

_SYNCHRONIZED, _FREE = 0.5, 5.0
"""Seconds in which each process must have begun to watch: where the step that has just ended was one of all processes,
so that they have begun already, and where they may be apart."""
_READY = 30.0
"""Seconds in which a process that watches must have ended its first step."""
_POLL = 0.002, 0.05
"""Seconds between two looks into the store: at first, and at most."""

_watches = 0


class Agreement(NamedTuple):
    """What the processes have agreed on.

    Attributes:
        peers: Ranks that measure together, this one among them, in order; only this one if they don't.
        stages: Number of different models that the processes train, as stages of a pipeline; 1 for replicas.
        missing: Ranks that are not watched, as far as that is known.
        together: Whether all processes are watched.
    """

    peers: tuple[int, ...]
    stages: int
    missing: tuple[int, ...]
    together: bool


class Handshake:
    """One watched training of this process, announced to the other processes.

    Args:
        rank: The rank of this process.
        world: Number of processes.
        store: A store that all of them share, and that nothing else uses.
    """

    def __init__(self, rank: int, world: int, store: Any) -> None:
        self.rank, self.world, self.store = rank, world, store
        self.store.set(f"watching/{rank}", "1")

    @classmethod
    def of_process(cls) -> Self:
        """Announce one more watched training of this process: those with the same number belong together."""
        global _watches
        _watches += 1
        store = default_store()
        store = store.clone() if hasattr(store, "clone") else store  # which must not keep the server alive
        return cls(dist.get_rank(), dist.get_world_size(), prefix_store(f"autotrainer/{_watches}", store))

    @property
    def leader_watches(self) -> bool:
        """Whether the first process is known to be watched."""
        return bool(self.store.check(["watching/0"]))

    def agree(self, description: str, *, synchronized: bool) -> Agreement:
        """Compare this process with the others at the end of its first step.

        Args:
            description: Describes what this process trains: equal where processes hold replicas or shards of one model.
            synchronized: Whether the step that has ended was one of all processes.
        """
        self.store.set(f"ready/{self.rank}", description)
        patience = _SYNCHRONIZED if synchronized else _FREE
        verdict = json.loads(self._decide(patience) if self.rank == 0 else self._await(patience))
        classes, missing = verdict.get("classes", []), tuple(verdict["missing"])
        if not classes:
            return Agreement((self.rank,), 1, missing, together=False)
        own = classes[self.rank]
        peers = tuple(rank for rank, each in enumerate(classes) if each == own)
        return Agreement(peers, max(classes) + 1, (), together=True)

    def _decide(self, patience: float) -> bytes:
        watching, ready = ([f"{what}/{rank}" for rank in range(self.world)] for what in ("watching", "ready"))
        missing = self._missing(watching, patience) or self._missing(ready, _READY)
        verdict: dict[str, Sequence[int]] = {"missing": missing}
        if not missing:
            numbers: dict[bytes, int] = {}
            verdict["classes"] = [numbers.setdefault(each, len(numbers)) for each in self._values(ready)]
        return self._settle(verdict)

    def _await(self, patience: float) -> bytes:
        if self._missing(["watching/0"], patience):
            return self._settle({"missing": [0]})
        if self._missing(["verdict"], patience + 2 * _READY):
            return self._settle({"missing": []})
        verdict: bytes = self.store.get("verdict")
        return verdict

    def _settle(self, verdict: dict[str, Sequence[int]]) -> bytes:
        """Propose a verdict, and return that of the first process that has proposed one."""
        first: bytes = self.store.compare_set("verdict", "", json.dumps(verdict))
        return first

    def _missing(self, keys: Sequence[str], patience: float) -> list[int]:
        """Return the indices of keys that nobody has set in so many seconds."""
        if _poll(lambda: self.store.check(list(keys)), patience):
            return []
        return [index for index, key in enumerate(keys) if not self.store.check([key])]

    def _values(self, keys: Sequence[str]) -> list[bytes]:
        if self.store.has_extended_api():
            values: list[bytes] = self.store.multi_get(list(keys))
            return values
        return [self.store.get(key) for key in keys]


def _poll(check: Callable[[], Any], patience: float) -> bool:
    """Return whether a condition has become true in so many seconds."""
    end, pause = time.monotonic() + patience, _POLL[0]
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _POLL[1])
    return True
