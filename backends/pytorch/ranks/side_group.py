"""Adds up arrays of several processes beside the training: in the background, without the groups of the user."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
import torch.distributed as dist

from autotrainer.backends.pytorch.runtime.torch_private import prefix_store
from autotrainer.records.signals import Floats

__all__ = ["SideGroup", "Sum"]

_CONNECT = timedelta(seconds=15)
"""In which the processes must have connected."""


class Sum:
    """A sum over processes that is being made.

    Args:
        values: The tensor that becomes the sum.
        work: The operation; None for a single process.
    """

    def __init__(self, values: torch.Tensor, work: Any) -> None:
        self._values, self._work = values, work

    @property
    def done(self) -> bool:
        """Whether it has ended, well or not."""
        return self._work is None or bool(self._work.is_completed())

    def wait(self, seconds: float) -> bool:
        """Return whether it has ended in so many seconds."""
        end, pause = time.monotonic() + seconds, 2e-5
        while not self.done:
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 2e-3)
        return True

    def result(self) -> Floats:
        """Return the sum, once it is done.

        Raises:
            ConnectionError: If it has failed, as another process has ended.
        """
        if self._work is not None:
            try:
                self._work.wait()
            except RuntimeError as error:
                raise ConnectionError("the connection to another process is lost") from error
        return np.array(self._values.numpy(), np.float64)


class SideGroup:
    """A group of its own, over the host, in which operations run in the background.

    It belongs to no list of groups of PyTorch: its operations and those of the user's groups may come in any order.

    Args:
        store: A store that all of its processes share.
        peers: The ranks, in order.
        rank: That of this process.

    Raises:
        RuntimeError: If the processes do not connect.
    """

    def __init__(self, store: Any, peers: Sequence[int], rank: int) -> None:
        self._group: Any = None
        self._options = dist.AllreduceOptions()
        self._options.timeout = dist.distributed_c10d.default_pg_timeout
        self._latest: list[Sum] = []
        if len(peers) > 1:
            own = prefix_store(f"group/{peers[0]}", store)
            self._group = dist.ProcessGroupGloo(own, list(peers).index(rank), len(peers), timeout=_CONNECT)
            _groups.add(self)

    def add_up(self, values: Floats) -> Sum:
        """Begin to add up arrays of the same shape over all processes of the group."""
        tensor = torch.from_numpy(np.array(values, np.float64))
        work = None if self._group is None else self._group.allreduce([tensor], self._options)
        self._latest = [each for each in self._latest if not each.done]
        self._latest.append(Sum(tensor, work))
        return self._latest[-1]

    def leave(self) -> None:
        """Leave the group, without waiting for anybody."""
        group, self._group = self._group, None
        _groups.discard(self)
        if group is not None and not all(each.done for each in self._latest):
            _keep(group)  # its destructor would wait for what has not ended

    def inherit(self) -> None:
        """Keep the group, in a forked child: its destructor would wait for threads that a child does not have."""
        if self._group is not None:
            _keep(self._group)


_groups: WeakSet[SideGroup] = WeakSet()


def _keep(group: Any) -> None:
    """Never destroy a group, not even at the end of the process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def _inherit_all() -> None:
    for group in list(_groups):
        group.inherit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_inherit_all)
