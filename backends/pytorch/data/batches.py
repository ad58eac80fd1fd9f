"""Batches of managed trainings: from arrays in memory, or from a data loader."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotrainer.backends.pytorch.data.loaders import FiniteRowsLoader, length_of, rebatched, rows_of
from autotrainer.backends.pytorch.data.random_generators import RandomGenerators
from autotrainer.backends.pytorch.runtime.random_state import mix, preserve_random_state, seed_all
from autotrainer.backends.pytorch.runtime.tensors import first_tensor, map_tensors
from autotrainer.errors import DataError
from autotrainer.records.data import ArrayData, Data, concatenate_batches, finite_rows, map_arrays

__all__ = [
    "ArrayBatches",
    "Batch",
    "Batches",
    "LoaderBatches",
    "first_rows",
    "open_data",
    "primary_output",
]


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch on the model's device.

    Attributes:
        inputs: A tensor, or a tuple, list or dict of tensors; None if the batch is not (x, y).
        targets: The targets; None if the batch is not (x, y).
        weights: Sample weights, shape (rows,) or (rows, steps...), or None.
        rows: Number of samples.
        raw: The batch as the user's ``step`` takes it.
    """

    inputs: Any
    targets: Any
    weights: Tensor | None
    rows: int
    raw: Any


def primary_output(output: Any) -> Tensor:
    """Return the tensor of an output that holds the predictions: itself, ``logits``, or the first floating-point one.

    Raises:
        DataError: If there is no such tensor.
    """
    tensor = first_tensor(output, floating=not isinstance(output, Tensor))
    if tensor is None:
        raise DataError(f"the model returns {type(output).__name__} without a floating-point tensor: give step=")
    return tensor


class Batches:
    """A data set as batches, which can be read repeatedly."""

    rows: int | None
    """Number of samples, if known without reading them."""
    steps: int | None
    """Batches of one pass, if known."""
    size: int | None
    """Samples in a batch, if known."""

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Generator[Batch]:
        """Iterate once over the data.

        Args:
            epoch: 0-based epoch whose shuffled order to take; None for the original order.
            seed: Seed of the training. The order depends on seed and epoch only.
        """
        raise NotImplementedError


class ArrayBatches(Batches):
    """Batches of arrays in memory.

    Floating-point arrays are converted to the model's type, and integers where ``floating`` names them.

    Args:
        data: The arrays.
        size: Samples in a batch. A last batch of a single sample is merged into the one before it: batch
            normalization can't train on one sample.
        device: Device of the batches.
        dtype: Floating-point type of the model.
        floating: Which of ``inputs`` and ``targets`` to convert to ``dtype`` although they are integers.
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

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Generator[Batch]:
        """Iterate once over the data, shuffled if an epoch is given."""
        order = None
        if epoch is not None:
            order = torch.randperm(len(self._targets), generator=torch.Generator().manual_seed(mix(seed, epoch)))
        for start, stop in zip(self._edges[:-1], self._edges[1:], strict=True):
            rows: Any = slice(start, stop) if order is None else order[start:stop]

            def take(tensor: Tensor, rows: Any = rows) -> Tensor:
                batch = tensor[rows]
                # A slice is a view of the user's array: matrix products depend on its alignment in the last digits.
                return batch.to(self._device, copy=order is None)

            inputs, targets = map_tensors(take, self._inputs), take(self._targets)
            weights = None if self._weights is None else take(self._weights)
            raw = (inputs, targets) if weights is None else (inputs, targets, weights)
            yield Batch(inputs, targets, weights, stop - start, raw)


class LoaderBatches(Batches):
    """Batches of a `DataLoader` or of another iterable that can be read repeatedly.

    Args:
        source: The loader.
        device: Device of the batches.
        pairs: Whether its batches must be (x, y); otherwise the user's ``step`` takes them unchanged.
        size: Batch size to read with; None for the loader's.
        shuffle: Seed to shuffle each epoch with; None keeps the loader's order.
        clean: Leave out rows with non-finite values.
        name: Name of the argument, for messages.
    """

    def __init__(
        self,
        source: Any,
        device: torch.device,
        *,
        pairs: bool,
        name: str = "the data",
        size: int | None = None,
        shuffle: int | None = None,
        clean: bool = False,
    ) -> None:
        loader = source if size is None and shuffle is None else rebatched(source, size, shuffle)
        self._source = FiniteRowsLoader(loader) if clean else loader
        self._device = device
        self._pairs = pairs
        self._name = name
        batch_size = getattr(self._source, "batch_size", None)
        self.size = batch_size if isinstance(batch_size, int) else None
        dataset = getattr(source, "dataset", None)
        sampler = getattr(source, "sampler", dataset)
        self.steps = length_of(self._source)
        batched_data = getattr(source, "batch_sampler", sampler) is None  # the data set holds whole batches
        self.rows = length_of(sampler) if dataset is not None and not batched_data else None
        if getattr(self._source, "drop_last", False) and self.rows and self.steps and self.size:
            self.rows = min(self.rows, self.steps * self.size)
        self._generators = RandomGenerators.of(loader)

    @property
    def source(self) -> Any:
        """The loader that is read: the user's, or one over the same data with the edits that concern it."""
        return self._source

    def rewind(self) -> None:
        """Restore the initial state of the loader's own random generators."""
        self._generators.restore()

    def generators(self) -> RandomGenerators:
        """Return the loader's own random generators with their current states."""
        return self._generators.now()

    def read(self, epoch: int | None = None, *, seed: int = 0) -> Generator[Batch]:
        """Iterate once over the loader, in its own order; without an epoch, in the same order each time.

        Raises:
            DataError: If there is no batch, or a batch is not (x, y) although it must be.
        """
        if epoch is not None:
            yield from self._read()
            return
        current = self.generators()
        with preserve_random_state():
            seed_all(0)
            self.rewind()
            try:
                yield from self._read()
            finally:
                current.restore()

    def _read(self) -> Iterator[Batch]:
        number = -1
        for number, item in enumerate(self._source):
            raw = map_tensors(lambda tensor: tensor.to(self._device), item)
            pair = isinstance(raw, tuple | list) and len(raw) == 2
            if self._pairs and not pair:
                count = f" of {len(raw)} items" if isinstance(raw, tuple | list) else ""
                raise DataError(
                    f"{self._name}: batch {number} of the loader is a {type(raw).__name__}{count}, not (x, y): give "
                    "step=callable(model, batch) that computes the loss"
                )
            inputs, targets = raw if pair else (None, None)
            if self._pairs and isinstance(targets, Tensor) and not targets.ndim:
                raise DataError(
                    f"{self._name}: the {type(self._source).__name__} yields single samples, not batches: give "
                    "torch.utils.data.DataLoader(data, batch_size=32)"
                )
            rows = rows_of(targets if pair else raw)
            if self._pairs and not rows:
                raise DataError(f"{self._name}: batch {number} of the loader has no rows: leave it out")
            yield Batch(inputs, targets, None, rows, raw)
        if number < 0:
            raise DataError(
                f"{self._name}: the {type(self._source).__name__} yields no batch: it is empty, or can be read only "
                "once; give a "
                "DataLoader over the data, or an object that makes its batches anew each time it is iterated"
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
        size: Samples in a batch of arrays; for a loader only with ``rebatch``.
        device: Device of the batches.
        dtype: Floating-point type of the model.
        floating: See `ArrayBatches`.
        pairs: See `LoaderBatches`.
        rebatch: Read a loader in batches of ``size``, too.
        shuffle: See `LoaderBatches`; arrays are always shuffled.
        clean: See `LoaderBatches`.
    """
    if isinstance(data, ArrayData):
        return ArrayBatches(data.take(finite_rows(data)) if clean else data, size, device, dtype, floating)
    loader_size = size if rebatch else None
    return LoaderBatches(
        data.source, device, pairs=pairs, name=data.name, size=loader_size, shuffle=shuffle, clean=clean
    )


def first_rows(batches: Batches, rows: int) -> ArrayData | None:
    """Return the first rows as arrays; None if a batch is not (x, y), or batches differ in form.

    NumPy has no bfloat16: such values are converted to float32, which has all of them.
    """
    inputs: list[Any] = []
    targets: list[NDArray[Any]] = []
    for batch in batches.read():
        if not isinstance(batch.targets, Tensor) or not batch.targets.ndim:
            return None
        inputs.append(map_tensors(_array, batch.inputs))
        targets.append(_array(batch.targets))
        if sum(map(len, targets)) >= rows:
            break
    return concatenate_batches(inputs, targets, rows)


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def _tensor(array: NDArray[Any], dtype: torch.dtype | None) -> Tensor:
    """Return an array as a tensor of a type; without one, integers become int64 and the rest is unchanged."""
    if array.dtype.kind in "iu" and dtype is None:
        array = array.astype(np.int64, copy=False)
    array = np.ascontiguousarray(array)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor if dtype is None else tensor.to(dtype)
