"""Data of managed trainings: batches for `Model.fit`, and what has to be known of them beforehand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.errors import ConfigError, DataError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, map_arrays
from autotrainer.records.task import TargetSummary
from autotrainer.training.data_edits import Moments

__all__ = [
    "ArrayFeed",
    "Batch",
    "InputStatistics",
    "StreamFeed",
    "batches",
    "cast",
    "first_array",
    "input_statistics",
    "make_feed",
    "reason_of",
    "stream_length",
    "target_summary",
]

Batch = tuple[Any, Any, Any]
"""Inputs, targets and sample weights (or None)."""

_SAMPLE_BATCHES = 16


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What the training inputs look like, for one of them.

    Attributes:
        shape: Shape of a row.
        mean: Per feature for rows of rank 1, else a single number.
        std: The same; 1 for constant features.
        spread: Standard deviation over all values.
    """

    shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    spread: float


def cast(array: NDArray[Any]) -> NDArray[Any]:
    """Return floating values in Keras' default type, as `fit` casts them; the rest as it is."""
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array


def first_array(values: Any) -> Any:
    """Return the first array of a nested structure."""
    return keras.tree.flatten(values)[0]


class ArrayFeed:
    """Arrays in memory, shuffled anew for each epoch.

    The order of the rows depends on the seed and the number of the epoch alone.

    Args:
        data: The data.
        batch_size: Samples a batch.
        shuffle: Whether to shuffle.
        steps: Batches an epoch, or None for all there are.
    """

    def __init__(self, data: ArrayData, batch_size: int, shuffle: bool, steps: int | None) -> None:
        self._data, self._shuffle = data, shuffle
        self.batch_size, self.rows = batch_size, data.rows
        self._batches = math.ceil(data.rows / batch_size)
        self.steps = steps if steps is not None else self._batches

    def resized(self, size: int) -> ArrayFeed:
        """Return the same data in other batches."""
        if self.steps != self._batches:
            raise ConfigError("steps_per_epoch is given: another batch size would change how much an epoch trains on")
        return ArrayFeed(self._data, size, self._shuffle, None)

    def rows_of(self, step: int) -> int:
        """Return the samples of a batch, counted from the start of the training."""
        last = step % self._batches == self._batches - 1
        return self.rows - (self._batches - 1) * self.batch_size if last else self.batch_size

    @property
    def goes_on(self) -> bool:
        """Whether a second `fit` can go on after an epoch of the first.

        But on TensorFlow, an epoch that is no whole pass ends within an order that only the iterator of its `fit` has.
        """
        return keras.backend.backend() == "tensorflow" or self.steps == self._batches

    def arguments(self, epochs: int, seed: int, done: int = 0) -> dict[str, Any]:
        """Return what to call `fit` with.

        On TensorFlow one pipeline for the whole training: `fit` takes some 20 ms an epoch to restart one.

        Args:
            epochs: Epochs of the whole training.
            seed: Its seed.
            done: Batches of it that were trained on before.
        """
        inputs, targets = map_arrays(cast, self._data.inputs), cast(self._data.targets)
        if keras.backend.backend() == "tensorflow":
            source = _pipeline((inputs, targets), self._data.weights, self, epochs, seed, self._shuffle, done)
            return {"x": source, "steps_per_epoch": self.steps, "shuffle": False}
        return {
            "x": inputs,
            "y": targets,
            "sample_weight": self._data.weights,
            "batch_size": self.batch_size,
            "shuffle": self._shuffle,
            "steps_per_epoch": self.steps if self.steps != self._batches else None,
        }


def _pipeline(data: Any, weights: Any, feed: ArrayFeed, epochs: int, seed: int, shuffle: bool, done: int) -> Any:
    import tensorflow as tf

    content = data if weights is None else (*data, cast(weights))
    tensors = tf.nest.map_structure(tf.convert_to_tensor, content)
    in_a_pass = max(1, math.ceil(feed.rows / feed.batch_size))
    passes, (first, begun) = math.ceil(epochs * feed.steps / in_a_pass), divmod(done, in_a_pass)

    def one_pass(number: Any) -> Any:
        rows = tf.range(feed.rows)
        if shuffle:
            rows = tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([tf.constant(seed, tf.int64), number]))
        if begun:
            rows = rows[tf.where(tf.equal(number, first), begun * feed.batch_size, 0) :]
        chosen = tf.data.Dataset.from_tensor_slices(rows).batch(feed.batch_size)
        return chosen.map(lambda r: tf.nest.map_structure(lambda t: tf.gather(t, r), tensors))

    return tf.data.Dataset.range(first, passes).flat_map(one_pass).prefetch(2)


class StreamFeed:
    """A data set or loader of the user's, passed to `fit` as it is.

    How many samples a batch holds is not known before it is read: the largest of the first ones is assumed.

    Args:
        source: `tf.data.Dataset`, `keras.utils.PyDataset`, `torch.utils.data.DataLoader` or another iterable of
            batches that can be read again.
        steps: Batches an epoch, or None for all there are.
        shuffle: Whether Keras shuffles the batches of a `PyDataset`; others come as they are.
    """

    goes_on = False
    """Whether a second `fit` can go on after an epoch of the first: what the passes depend on is not known."""

    def __init__(self, source: Any, steps: int | None, shuffle: bool = True) -> None:
        self._source, self._given_steps, self._shuffle = source, steps, shuffle
        length = stream_length(source)
        if length is None and steps is None:
            raise DataError("train_data has no end: give fit_args={'steps_per_epoch': …}")
        self.steps = steps if steps is not None else (length if length != -1 else None)
        sample = [_rows(b) for b in batches(StreamData(source), 2)]
        if not sample:
            raise DataError("train_data holds no batch: it is empty, or can be read only once")
        self.batch_size = max(sample)
        self.rows = None if self.steps is None else self.steps * self.batch_size

    def resized(self, size: int) -> StreamFeed:
        """Return the same data in other batches, where the data set can be batched anew."""
        if not hasattr(self._source, "unbatch"):
            raise ConfigError(f"a {type(self._source).__name__} keeps its own batch size")
        if self._given_steps is not None:
            raise ConfigError("steps_per_epoch is given: another batch size would change how much an epoch trains on")
        return StreamFeed(self._source.unbatch().batch(size), None)

    def rows_of(self, step: int) -> int:
        """Return the samples that a batch is taken to hold."""
        return self.batch_size

    def arguments(self, epochs: int, seed: int, done: int = 0) -> dict[str, Any]:
        """Return what to call `fit` with."""
        shuffle = self._shuffle and isinstance(self._source, keras.utils.PyDataset)
        return {"x": self._source, "steps_per_epoch": self._given_steps, "shuffle": shuffle}


def make_feed(data: Data, batch_size: int, shuffle: bool, steps: int | None) -> ArrayFeed | StreamFeed:
    """Return the batches of training data."""
    if isinstance(data, ArrayData):
        return ArrayFeed(data, batch_size, shuffle, steps)
    return StreamFeed(data.source, steps, shuffle)


def batches(data: Data, limit: int | None = None, size: int = 256) -> Iterator[Batch]:
    """Yield batches in the order of the data.

    Args:
        data: Arrays or a stream.
        limit: Batches to yield at most.
        size: Samples a batch, for arrays.
    """
    if isinstance(data, ArrayData):
        source: Any = (_slice(data, start, size) for start in range(0, data.rows, size))
    elif isinstance(data.source, keras.utils.PyDataset):
        source = (data.source[i] for i in range(len(data.source)))
    else:
        source = iter(data.source)
    for number, batch in enumerate(source):
        if limit is not None and number >= limit:
            return
        yield _unpack(batch)


def _slice(data: ArrayData, start: int, size: int) -> Batch:
    def rows(array: NDArray[Any]) -> NDArray[Any]:
        return cast(array[start : start + size])

    return map_arrays(rows, data.inputs), rows(data.targets), None if data.weights is None else rows(data.weights)


def _unpack(batch: Any) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise DataError("each batch must be (inputs, targets) or (inputs, targets, sample_weight)")
    inputs, targets, weights = (*batch, None) if len(batch) == 2 else batch
    return _from_torch(inputs), _from_torch(targets), _from_torch(weights)


def _from_torch(values: Any) -> Any:
    """Return tensors of a PyTorch loader as arrays; what Keras takes as it is stays so."""
    return keras.tree.map_structure(lambda v: as_array(v) if type(v).__module__.startswith("torch") else v, values)


def _rows(batch: Batch) -> int:
    shape = first_array(batch[1]).shape
    if not len(shape):
        raise DataError("the data set yields single samples, not batches: give dataset.batch(32)")
    return int(shape[0])


def stream_length(source: Any) -> int | None:
    """Return the batches of a stream; -1 if only reading tells, None if it never ends."""
    if hasattr(source, "cardinality"):
        size = int(source.cardinality())
        return None if size == -1 else (size if size >= 0 else -1)
    if isinstance(source, keras.utils.PyDataset):
        return -1 if source.num_batches is None else int(source.num_batches)
    return len(source) if hasattr(source, "__len__") else -1


def target_summary(data: Data) -> TargetSummary:
    """Return what the targets look like: all of arrays, the first batches of a stream."""
    summary = DataSummary()
    if isinstance(data, ArrayData):
        summary.add_targets(data.targets)
    else:
        for _, targets, _ in batches(data, _SAMPLE_BATCHES):
            summary.add_targets(as_array(first_array(targets)))
    return summary.targets


def input_statistics(data: Data, entry: int, name: str | None) -> InputStatistics:
    """Return mean and standard deviation of one input over the training data; values that are not finite are left out.

    Args:
        data: The training data.
        entry: Position among the flattened inputs.
        name: Name of the input, for inputs that are a dict.
    """
    columns, values = Moments(), Moments()
    shape: tuple[int, ...] = ()
    for inputs, _, _ in batches(data, size=8192):
        chosen = inputs[name] if isinstance(inputs, dict) and name in inputs else keras.tree.flatten(inputs)[entry]
        rows = np.asarray(as_array(chosen), np.float64)
        shape = rows.shape[1:]
        columns.add(rows)
        values.add(rows.reshape(-1, 1))
    mean, std = columns.scale()
    return InputStatistics(shape, mean, std, values.scale()[1][0])


def reason_of(error: Exception) -> str:
    """Return the line of Keras' message that says what is wrong, without the colours meant for a terminal."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
    told = [
        line.strip() for line in lines if line.strip() and not line.startswith("Exception encountered when calling")
    ]
    return told[0] if told else type(error).__name__
