"""Data loaders: reading them in other batches, in another order, or without rows that are not finite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from autotrainer.backends.pytorch.runtime.tensors import map_tensors

__all__ = [
    "FiniteRowsLoader",
    "is_repeatable",
    "length_of",
    "rebatch_refusal",
    "rebatched",
    "rows_of",
    "shuffle_refusal",
]


class FiniteRowsLoader:
    """A loader without the rows that hold non-finite values. All other attributes are those of the loader itself."""

    def __init__(self, source: Any) -> None:
        self._loader = source

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            finite = _finite_rows(batch)
            if finite is not None:
                yield finite

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


def _finite_rows(batch: Any) -> Any:
    """Return the rows of a batch in which every value is finite; None if there are none."""
    rows = rows_of(batch)
    finite = torch.ones(rows, dtype=torch.bool)

    def check(tensor: Tensor) -> None:
        if tensor.ndim and len(tensor) == rows and tensor.is_floating_point():
            finite.logical_and_(torch.isfinite(tensor).reshape(rows, -1).all(1).cpu())

    map_tensors(check, batch)
    if bool(finite.all()):
        return batch
    if not bool(finite.any()):
        return None
    return map_tensors(lambda t: t[finite.to(t.device)] if t.ndim and len(t) == rows else t, batch)


def rebatch_refusal(source: Any) -> str:
    """Return why a loader can't be read in batches of another size; or an empty string."""
    if type(source) is not DataLoader:
        return f"a {type(source).__name__} makes its batches by itself"
    if isinstance(source.dataset, IterableDataset):
        return "the loader reads an iterable data set"
    if type(source.batch_sampler) is not BatchSampler or not isinstance(
        source.sampler, RandomSampler | SequentialSampler
    ):
        return "the loader has a custom sampler or batch sampler"
    return ""


def is_repeatable(source: Any) -> bool:
    """Return whether a pass over a loader depends on known random generators alone, not on earlier passes."""
    map_style = type(source) is DataLoader and not isinstance(source.dataset, IterableDataset)
    return map_style and not source.persistent_workers


def shuffle_refusal(source: Any) -> str:
    """Return why the rows of a loader can't be shuffled; or an empty string."""
    reason = rebatch_refusal(source)
    if reason:
        return f"{reason}: shuffle where the rows are ordered"
    return "" if isinstance(source.sampler, SequentialSampler) else "the loader shuffles already"


def rebatched(source: DataLoader[Any], size: int | None, shuffle: int | None) -> DataLoader[Any]:
    """Return a loader over the same data with another batch size, or shuffled with a seed; None keeps what it has."""
    sampler: Any = source.sampler
    if shuffle is not None:
        sampler = RandomSampler(source.dataset, generator=torch.Generator().manual_seed(shuffle))  # type: ignore[arg-type]
    return DataLoader(
        source.dataset,
        batch_size=source.batch_size if size is None else size,
        sampler=sampler,
        num_workers=source.num_workers,
        collate_fn=source.collate_fn,
        pin_memory=source.pin_memory,
        drop_last=source.drop_last,
        worker_init_fn=source.worker_init_fn,
        generator=source.generator,
    )


def length_of(value: Any) -> int | None:
    """Return ``len(value)``; None if it has no length."""
    try:
        return len(value)
    except TypeError:  # of an iterable data set
        return None


def rows_of(value: Any) -> int:
    """Return the number of samples of a batch: the length of its first tensor; 1 if there is none."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else 1
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    for item in items:
        if isinstance(item, Tensor | Mapping | tuple | list):
            return rows_of(item)
    return 1
