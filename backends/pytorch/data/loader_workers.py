"""Checks the workers of a data loader: do two of them draw the same random numbers, or read the same samples?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset

from autotrainer.backends.pytorch.data.batches import LoaderBatches
from autotrainer.backends.pytorch.runtime.tensors import map_tensors
from autotrainer.output import logger

__all__ = ["worker_facts"]

_ROWS = 16
"""Samples in a batch; each worker is asked for the same batch twice."""

_LEAST_VARIED = 8
"""Samples of these that must differ the second time: only then are random numbers known to be drawn. Independent
workers then agree in all 32 samples with a probability of at most C(16, 8) q^8 (1 - q)^40 < 1e-5, whatever the
probability q of a difference."""

_Rows = list[Tensor]


def worker_facts(source: Any) -> dict[str, float]:
    """Read the same samples in two workers, twice in each, from a copy of a loader.

    The caller preserves the global random states; the loader's own generator is restored here.

    Args:
        source: The training data; anything but a `DataLoader` gives no facts.

    Returns:
        ``workers_draw_alike``, ``passes_draw_alike`` and ``workers_read_alike`` (see
        `autotrainer.records.facts.FACTS`), 1 or 0, as far as they are known. Empty if the loader has no workers, or
        samples do not vary.
    """
    if type(source) is not DataLoader or not source.num_workers or not _has_plain_indices(source):
        return {}
    batches = LoaderBatches(source, torch.device("cpu"), pairs=False)
    loader = _comparison_loader(source)
    try:
        first = _read(loader)
        again = [] if isinstance(source.dataset, IterableDataset) or source.persistent_workers else _read(loader)
    except Exception as error:  # noqa: BLE001 - whatever the user's data set raises for the samples chosen here
        logger.warning("the workers of the data loader can't be checked: %r", error)
        return {}
    finally:
        batches.rewind()
    return _facts(first, again, min(2, source.num_workers), isinstance(source.dataset, IterableDataset))


def _has_plain_indices(source: DataLoader[Any]) -> bool:
    """Return whether samples are requested by integers from 0 on, or not requested at all (an iterable data set)."""
    if isinstance(source.dataset, IterableDataset):
        return True
    samplers = source.sampler, source.batch_sampler
    standard = all(each is None or type(each).__module__.startswith("torch.utils.data") for each in samplers)
    return standard and hasattr(source.dataset, "__len__") and len(source.dataset) > 0


def _comparison_loader(source: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader over the same data set with at most two workers and batches of identical samples."""
    sampling: dict[str, Any] = {"batch_size": _ROWS if source.batch_size else None}
    if not isinstance(source.dataset, IterableDataset):
        indices = [index % len(source.dataset) for index in range(_ROWS)]  # type: ignore[arg-type]
        batched = isinstance(source.batch_sampler, BatchSampler)
        sampling = {"batch_sampler": [indices] * 4} if batched else {"batch_size": None, "sampler": [0] * 4}
    return DataLoader(
        source.dataset,
        num_workers=min(2, source.num_workers),
        collate_fn=source.collate_fn,
        worker_init_fn=source.worker_init_fn,
        multiprocessing_context=source.multiprocessing_context,
        generator=source.generator,
        timeout=source.timeout,
        **sampling,
    )


def _read(loader: DataLoader[Any]) -> list[_Rows]:
    """Return the tensors of the first four batches, of which the workers read every second one each."""
    return [list(_tensors(batch)) for batch in islice(loader, 4)]


def _tensors(batch: Any) -> Iterator[Tensor]:
    tensors: list[Tensor] = []
    map_tensors(tensors.append, batch)
    return (tensor for tensor in tensors if tensor.ndim)


def _facts(first: list[_Rows], again: list[_Rows], workers: int, iterable: bool) -> dict[str, float]:
    if len(first) < 4:
        return {}
    second = first[workers]  # of the first worker
    varied = _differing(first[0], second)
    if varied is None or varied < _LEAST_VARIED:
        return {}
    facts = {}
    if workers > 1:
        alike = float(_differing(first[0], first[1]) == 0 and _differing(second, first[3]) == 0)
        facts["workers_read_alike" if iterable else "workers_draw_alike"] = alike
    if len(again) == 4:
        same = _differing(first[0], again[0]) == 0 and _differing(second, again[workers]) == 0
        facts["passes_draw_alike"] = float(same)
    return facts


def _differing(one: _Rows, other: _Rows) -> int | None:
    """Return how many samples of two batches differ in any value; None if they can't be compared."""
    if [t.shape for t in one] != [t.shape for t in other] or len({len(t) for t in one}) != 1 or not len(one[0]):
        return None
    differences = [
        ((a != b) & ~((a != a) & (b != b))).reshape(len(a), -1).any(dim=1) for a, b in zip(one, other, strict=True)
    ]
    return int(torch.stack(differences).any(dim=0).sum())
