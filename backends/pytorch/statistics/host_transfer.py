"""Transfers the results of a sampled step from the device, all at once where possible."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from autotrainer.backends.pytorch.statistics.stats import joined
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.records.signals import Floats

__all__ = ["Results", "receive", "transfer"]


class Results(NamedTuple):
    """Results of one statistic that wait on the device.

    Attributes:
        statistic: One of `STATISTICS`.
        tensors: The results, scalars and vectors.
        write: Called with all their values on the host, shape (values,).
        row: Row of the layer table that they belong to; None for several.
        parts: Returns the same results in several groups, of which some may fail alone; None: it is one group.
    """

    statistic: str
    tensors: Sequence[Tensor]
    write: Callable[[Floats], None]
    row: int | None = None
    parts: Callable[[], Sequence[Results]] | None = None


def transfer(groups: Sequence[Results], guard: StatisticGuard) -> None:
    """Transfer groups of results to the host in one piece, and write them, in their order.

    If that fails, each group is transferred alone, so that only the one that can't be read is left out.

    Args:
        groups: The groups.
        guard: Keeps them apart.
    """
    try:
        values: list[Floats | None] = list(_to_host(groups))
    except Exception:  # noqa: BLE001 - the group that raises is found below
        groups = [part for group in groups for part in ((group,) if group.parts is None else group.parts())]
        values = [guard.measure(group.statistic, _alone, group, row=group.row) for group in groups]
    for group, part in zip(groups, values, strict=True):
        if part is not None:
            guard.measure(group.statistic, group.write, part, row=group.row)


def _to_host(groups: Sequence[Results]) -> list[Floats]:
    flat = [part for group in groups for part in _flat(group.tensors)]
    if not flat:
        return [np.zeros(0) for _ in groups]
    values = joined(flat).detach().float().cpu().numpy().astype(np.float64)
    sizes = [sum(tensor.numel() for tensor in group.tensors) for group in groups]
    return np.split(values, np.cumsum(sizes)[:-1])


def _flat(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return flat tensors with the same values: scalars on one device become one, as there may be thousands."""
    if len(tensors) > 1 and all(not tensor.ndim for tensor in tensors) and len({each.device for each in tensors}) == 1:
        return [torch.stack(list(tensors))]
    return [tensor.reshape(-1) for tensor in tensors]


def _alone(group: Results) -> Floats:
    return _to_host([group])[0]


def receive(statistic: str, values: Sequence[Tensor | float], into: list[float]) -> Results:
    """Return results that fill a list with numbers, some of which are on the device.

    Args:
        statistic: One of `STATISTICS`.
        values: The numbers: scalar tensors, or numbers.
        into: Gets all of them in their order; stays as it is if they can't be read.
    """

    def write(read: Floats) -> None:
        on_host = iter(read.tolist())
        into[:] = [next(on_host) if isinstance(value, Tensor) else float(value) for value in values]

    return Results(statistic, [value for value in values if isinstance(value, Tensor)], write)
