"""Batches of managed training: from arrays in memory, or from a loader that is read as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

from autotrainer.backends.pytorch.data.generators import Generators
from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.runtime.random_state import mix, preserve_random_state, seed_all
from autotrainer.errors import DataError
from autotrainer.records.data import ArrayData, Data, concatenate_batches, finite_rows, map_arrays

__all__ = [
    "ArrayBatches",
    "Batch",
    "Batches",
    "LoaderBatches",
    "first_rows",
    "is_repeatable",
    "map_tensors",
    "open_data",
    "primary_output",
    "rebatch_refusal",
    "rows_of",
    "shuffle_refusal",
]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the model's device.

    Attributes:
        inputs: A tensor, or a tuple, list or dict of tensors; None where the batch is no (x, y).
        targets: The targets; None where the batch is no (x, y).
        weights: Sample weights, shape (rows,), or None.
        rows: Number of samples.
        raw: The batch as the user's own ``step`` takes it.
    """

    inputs: Any
    targets: Any
    weights: Tensor | None
    rows: int
    raw: Any


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply a function to every tensor in nested tuples, lists and dicts; other values stay as they are."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_tensors(function, item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        items = [map_tensors(function, item) for item in value]
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def primary_output(output: Any) -> Tensor:
    """Return the tensor of an output that predictions are read from: itself, ``logits``, or the first floating one.

    Raises:
        DataError: If there is none.
    """
    found = first_tensor(output, floating=not isinstance(output, Tensor))
    if found is None:
        raise DataError(f"the model returns {type(output).__name__} without a floating-point tensor: give step=")
    return found


class Batches:
    """A data set as batches, readable again and again."""

    rows: int | None
    """Number of samples, if that is known without reading them."""
    steps: int | None
    """Batches of one pass, if that is known."""
    size: int | None
    """Samples a batch, if that is known."""

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Iterator[Batch]:
        """Iterate once over the data.

        Args:
            epoch: 0-based epoch whose shuffled order to take; None for the order as given.
            seed: Seed of the training. Order depends on seed and epoch only.
        """
        raise NotImplementedError


class ArrayBatches(Batches):
    """Batches of arrays in memory.

    Floating-point arrays get the model's type, as do whole numbers where ``floating`` asks for it.

    Args:
        data: The arrays.
        size: Samples a batch. A last batch of a single sample joins the one before it: batch normalization can't
            train on one.
        device: Where batches go.
        dtype: Floating-point type of the model.
        floating: Which of ``inputs`` and ``targets`` to convert to it although they are whole numbers.
    """

    def __init__(
        self, data: ArrayData, size: int, device: torch.device, dtype: torch.dtype, floating: frozenset[str]
    ) -> None:
        def tensor(array: NDArray[Any], convert: bool) -> Any:
            return _tensor(array, dtype if convert or array.dtype.kind == "f" else None)

        self._device = device
        self._inputs = map_arrays(lambda a: tensor(a, "inputs" in floating), data.inputs)
        self._targets = tensor(data.targets, "targets" in floating)
        self._weights = None if data.weights is None else _tensor(data.weights, dtype)
        self.rows, self.size = data.rows, size
        edges = [*range(0, data.rows, size), data.rows]
        if len(edges) > 2 and edges[-1] - edges[-2] == 1:
            del edges[-2]
        self._edges = edges
        self.steps = len(edges) - 1

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Iterator[Batch]:
        """Iterate once over the data, shuffled where an epoch is given."""
        order = None
        if epoch is not None:
            order = torch.randperm(len(self._targets), generator=torch.Generator().manual_seed(mix(seed, epoch)))
        for start, stop in zip(self._edges[:-1], self._edges[1:], strict=True):
            rows: Any = slice(start, stop) if order is None else order[start:stop]

            def take(tensor: Tensor, rows: Any = rows) -> Tensor:
                return tensor[rows].to(self._device)

            inputs, targets = map_tensors(take, self._inputs), take(self._targets)
            weights = None if self._weights is None else take(self._weights)
            raw = (inputs, targets) if weights is None else (inputs, targets, weights)
            yield Batch(inputs, targets, weights, stop - start, raw)


class LoaderBatches(Batches):
    """Batches of a `DataLoader` or of anything else that can be iterated again and again.

    Args:
        source: The loader.
        device: Where batches go.
        pairs: Whether its batches must be (x, y); else the user's ``step`` takes them as they are.
        size: Read in batches of this size instead of the loader's own.
        shuffle: Seed of an order of its own for each epoch; None keeps the loader's order.
        clean: Leave out rows with values that are not finite.
    """

    def __init__(
        self,
        source: Any,
        device: torch.device,
        *,
        pairs: bool,
        size: int | None = None,
        shuffle: int | None = None,
        clean: bool = False,
    ) -> None:
        batched = source if size is None and shuffle is None else _rebatched(source, size, shuffle)
        self._source = CleanLoader(batched) if clean else batched
        self._device = device
        self._pairs = pairs
        batch_size = getattr(self._source, "batch_size", None)
        self.size = batch_size if isinstance(batch_size, int) else None
        dataset = getattr(source, "dataset", None)
        sampler = getattr(source, "sampler", dataset)
        self.steps = _length(self._source)
        ready = getattr(source, "batch_sampler", sampler) is None  # the data set holds whole batches
        self.rows = _length(sampler) if dataset is not None and not ready else None
        if getattr(self._source, "drop_last", False) and self.rows and self.steps and self.size:
            self.rows = min(self.rows, self.steps * self.size)
        self._generators = Generators.of(batched)

    @property
    def source(self) -> Any:
        """What is read: the loader as given, or one over the same data with the edits that are about it."""
        return self._source

    def rewind(self) -> None:
        """Put the loader's own random generators back to where they were in the beginning."""
        self._generators.restore()

    def generators(self) -> Generators:
        """Return the loader's own random generators as they are now."""
        return self._generators.now()

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Iterator[Batch]:
        """Iterate once over the loader, in its own order; without an epoch, in the same one each time.

        Raises:
            DataError: If there is no batch, or one is no (x, y) where it must be.
        """
        if epoch is not None:
            yield from self._read()
            return
        present = self.generators()
        with preserve_random_state():
            seed_all(0)
            self.rewind()
            try:
                yield from self._read()
            finally:
                present.restore()

    def _read(self) -> Iterator[Batch]:
        number = -1
        for number, item in enumerate(self._source):
            raw = map_tensors(lambda tensor: tensor.to(self._device), item)
            pair = isinstance(raw, tuple | list) and len(raw) == 2
            if self._pairs and not pair:
                count = f" of {len(raw)} items" if isinstance(raw, tuple | list) else ""
                raise DataError(
                    f"batch {number} of the loader is a {type(raw).__name__}{count}, not (x, y): give "
                    "step=callable(model, batch) that computes the loss"
                )
            inputs, targets = raw if pair else (None, None)
            if self._pairs and isinstance(targets, Tensor) and not targets.ndim:
                raise DataError(
                    f"the {type(self._source).__name__} yields single samples, not batches: give "
                    "torch.utils.data.DataLoader(data, batch_size=32)"
                )
            yield Batch(inputs, targets, None, rows_of(targets if pair else raw), raw)
        if number < 0:
            raise DataError(
                f"the {type(self._source).__name__} yields no batch: it is empty, or can be read only once; give a "
                "DataLoader over the data, or what makes its batches anew each time that it is iterated"
            )


def open_data(
    data: Data,
    size: int,
    device: torch.device,
    dtype: torch.dtype,
    *,
    floating: frozenset[str] = frozenset(),
    pairs: bool = True,
    rebatch: bool = False,
    shuffle: int | None = None,
    clean: bool = False,
) -> Batches:
    """Return data as batches.

    Args:
        data: Arrays or a loader.
        size: Samples a batch for arrays; for a loader only with ``rebatch``.
        device: Where batches go.
        dtype: Floating-point type of the model.
        floating: See `ArrayBatches`.
        pairs: See `LoaderBatches`.
        rebatch: Whether a loader is to be read in batches of ``size`` too.
        shuffle: See `LoaderBatches`; arrays are shuffled anyway.
        clean: See `LoaderBatches`.
    """
    if isinstance(data, ArrayData):
        return ArrayBatches(data.take(finite_rows(data)) if clean else data, size, device, dtype, floating)
    size_of = size if rebatch else None
    return LoaderBatches(data.source, device, pairs=pairs, size=size_of, shuffle=shuffle, clean=clean)


class CleanLoader:
    """The batches of a loader without the rows that hold values that are not finite; else what the loader is."""

    def __init__(self, source: Any) -> None:
        self.unclean = source

    def __iter__(self) -> Iterator[Any]:
        for batch in self.unclean:
            good = _finite_part(batch)
            if good is not None:
                yield good

    def __len__(self) -> int:
        return len(self.unclean)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "unclean":
            raise AttributeError(name)
        return getattr(self.unclean, name)


def _finite_part(batch: Any) -> Any:
    """Return the rows of a batch in which every value is finite; None if there is none."""
    rows = rows_of(batch)
    good = torch.ones(rows, dtype=torch.bool)

    def look(tensor: Tensor) -> None:
        if tensor.ndim and len(tensor) == rows and tensor.is_floating_point():
            good.logical_and_(torch.isfinite(tensor).reshape(rows, -1).all(1).cpu())

    map_tensors(look, batch)
    if bool(good.all()):
        return batch
    if not bool(good.any()):
        return None
    return map_tensors(lambda t: t[good.to(t.device)] if t.ndim and len(t) == rows else t, batch)


def first_rows(batches: Batches, rows: int) -> ArrayData | None:
    """Return the first rows as arrays; None where a batch is no (x, y), or batches differ in form."""
    inputs: list[Any] = []
    targets: list[NDArray[Any]] = []
    for batch in batches.read():
        if not isinstance(batch.targets, Tensor) or not batch.targets.ndim:
            return None
        inputs.append(map_tensors(lambda tensor: tensor.detach().cpu().numpy(), batch.inputs))
        targets.append(batch.targets.detach().cpu().numpy())
        if sum(map(len, targets)) >= rows:
            break
    return concatenate_batches(inputs, targets, rows)


def rebatch_refusal(source: Any) -> str:
    """Say why a loader can't be read in batches of another size, or return an empty text."""
    if type(source) is not DataLoader:
        return f"batches of a {type(source).__name__} are made by itself"
    if isinstance(source.dataset, IterableDataset):
        return "the loader reads an iterable data set"
    if type(source.batch_sampler) is not BatchSampler or not isinstance(
        source.sampler, RandomSampler | SequentialSampler
    ):
        return "the loader has a batch size or sampler of its own making"
    return ""


def is_repeatable(source: Any) -> bool:
    """Say whether each pass over a loader depends on random generators alone that are known, not on earlier passes."""
    known = type(source) is DataLoader and not isinstance(source.dataset, IterableDataset)
    return known and not source.persistent_workers


def shuffle_refusal(source: Any) -> str:
    """Say why the rows of a loader can't be shuffled, or return an empty text."""
    reason = rebatch_refusal(source)
    if reason:
        return f"{reason}: shuffle where the rows are put in order"
    return "" if isinstance(source.sampler, SequentialSampler) else "the loader shuffles already"


def _rebatched(source: DataLoader[Any], size: int | None, shuffle: int | None) -> DataLoader[Any]:
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


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:  # iterable data sets have none
        return None


def rows_of(value: Any) -> int:
    """Return the number of samples of a batch: the first axis of its first tensor; 1 where there is none."""
    if isinstance(value, Tensor):
        return len(value) if value.ndim else 1
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    for item in items:
        if isinstance(item, Tensor | Mapping | tuple | list):
            return rows_of(item)
    return 1


def _tensor(array: NDArray[Any], dtype: torch.dtype | None) -> Tensor:
    """Return an array as a tensor: of the type given, or whole numbers as int64 and the rest unchanged."""
    if array.dtype.kind in "iu" and dtype is None:
        array = array.astype(np.int64, copy=False)
    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor if dtype is None else tensor.to(dtype)
