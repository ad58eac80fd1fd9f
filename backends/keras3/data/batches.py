"""The batches of managed trainings: arguments for `Model.fit`, their number and size, and reading them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
from numpy.typing import NDArray

from autotrainer.errors import ConfigError, DataError
from autotrainer.monitoring.summary import DataSummary
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, map_arrays
from autotrainer.records.task import TargetSummary

__all__ = [
    "ArrayBatches",
    "Batch",
    "StreamBatches",
    "cast",
    "first_array",
    "read_batches",
    "stream_length",
    "target_summary",
    "training_batches",
]

Batch = tuple[Any, Any, Any]
"""Inputs, targets and sample weights (or None)."""

_SAMPLE_BATCHES = 16


def cast(array: NDArray[Any]) -> NDArray[Any]:
    """Return floating values in Keras' default type, as `fit` casts them; other values unchanged."""
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array


def first_array(values: Any) -> Any:
    """Return the first array of a nested structure."""
    return keras.tree.flatten(values)[0]


class ArrayBatches:
    """Arrays in memory, shuffled again for each epoch.

    The order of the rows depends only on the seed and the number of the epoch.

    Args:
        data: The data.
        batch_size: Samples per batch.
        shuffle: Whether to shuffle.
        steps: Batches per epoch, or None for all.
    """

    def __init__(self, data: ArrayData, batch_size: int, shuffle: bool, steps: int | None) -> None:
        self._data, self._shuffle = data, shuffle
        self.batch_size, self.rows = batch_size, data.rows
        self._batches_per_pass = math.ceil(data.rows / batch_size)
        self.steps = steps if steps is not None else self._batches_per_pass

    def resized(self, size: int) -> ArrayBatches:
        """Return the same data with another batch size."""
        if self.steps != self._batches_per_pass:
            raise ConfigError("steps_per_epoch is set: another batch size would change how many samples an epoch has")
        return ArrayBatches(self._data, size, self._shuffle, None)

    def first(self) -> tuple[Any, ...]:
        """Return the first rows, as many as a batch has: inputs, targets and, if there are any, sample weights."""
        return tuple(part for part in next(read_batches(self._data, 1, self.batch_size)) if part is not None)

    def rows_of(self, step: int) -> int:
        """Return the samples of the batch of a step, counted from the start of the training."""
        last = step % self._batches_per_pass == self._batches_per_pass - 1
        return self.rows - (self._batches_per_pass - 1) * self.batch_size if last else self.batch_size

    @property
    def resumable_after_epoch(self) -> bool:
        """Whether a second `fit` can continue after an epoch of the first.

        Except on TensorFlow, an epoch that is not a whole pass ends within an order that only its `fit` knows.
        """
        return keras.backend.backend() == "tensorflow" or self.steps == self._batches_per_pass

    def arguments(self, epochs: int, seed: int, steps_done: int = 0) -> dict[str, Any]:
        """Return the data arguments of `fit`.

        On TensorFlow one pipeline serves the whole training: restarting it takes `fit` some 20 ms per epoch.

        Args:
            epochs: Epochs of the whole training.
            seed: Its seed.
            steps_done: Steps that were trained before.
        """
        inputs, targets = map_arrays(cast, self._data.inputs), cast(self._data.targets)
        if keras.backend.backend() == "tensorflow":
            source = _pipeline((inputs, targets), self._data.weights, self, epochs, seed, self._shuffle, steps_done)
            return {"x": source, "steps_per_epoch": self.steps, "shuffle": False}
        return {
            "x": inputs,
            "y": targets,
            "sample_weight": self._data.weights,
            "batch_size": self.batch_size,
            "shuffle": self._shuffle,
            "steps_per_epoch": self.steps if self.steps != self._batches_per_pass else None,
        }


def _pipeline(
    data: Any, weights: Any, batches: ArrayBatches, epochs: int, seed: int, shuffle: bool, steps_done: int
) -> Any:
    import tensorflow as tf

    content = data if weights is None else (*data, cast(weights))
    tensors = tf.nest.map_structure(tf.convert_to_tensor, content)
    per_pass = max(1, math.ceil(batches.rows / batches.batch_size))
    passes, (first_pass, offset) = math.ceil(epochs * batches.steps / per_pass), divmod(steps_done, per_pass)

    def one_pass(number: Any) -> Any:
        rows = tf.range(batches.rows)
        if shuffle:
            rows = tf.random.experimental.stateless_shuffle(rows, seed=tf.stack([tf.constant(seed, tf.int64), number]))
        if offset:
            rows = rows[tf.where(tf.equal(number, first_pass), offset * batches.batch_size, 0) :]
        indices = tf.data.Dataset.from_tensor_slices(rows).batch(batches.batch_size)
        return indices.map(lambda r: tf.nest.map_structure(lambda t: tf.gather(t, r), tensors))

    return tf.data.Dataset.range(first_pass, passes).flat_map(one_pass).prefetch(2)


class StreamBatches:
    """The user's data set or loader, passed to `fit` unchanged.

    How many samples per batch holds is not known before it is read: the largest of the first ones is assumed.

    Args:
        source: `tf.data.Dataset`, `keras.utils.PyDataset`, `torch.utils.data.DataLoader` or another iterable of
            batches that can be read again.
        steps: Batches per epoch, or None for all.
        shuffle: Whether Keras shuffles the batches of a `PyDataset`; other sources keep their order.
    """

    resumable_after_epoch = False
    """Whether a second `fit` can continue after an epoch of the first: its passes may depend on anything."""

    def __init__(self, source: Any, steps: int | None, shuffle: bool = True) -> None:
        self._source, self._steps_argument, self._shuffle = source, steps, shuffle
        length = stream_length(source)
        if length is None and steps is None:
            raise DataError("train_data is infinite: give fit_args={'steps_per_epoch': …}")
        self.steps = steps if steps is not None else (length if length != -1 else None)
        sample = [_rows(b, "train_data") for b in read_batches(StreamData(source, "train_data"), 2)]
        if not sample:
            raise DataError("train_data holds no batch: it is empty, or can be read only once")
        self.batch_size = max(sample)
        self.rows = None if self.steps is None else self.steps * self.batch_size

    def resized(self, size: int) -> StreamBatches:
        """Return the same data with another batch size, if the data set can be batched again."""
        if not hasattr(self._source, "unbatch"):
            raise ConfigError(
                f"the batch size of a {type(self._source).__name__} can't be changed here: change it in the loader"
            )
        if self._steps_argument is not None:
            raise ConfigError("steps_per_epoch is set: another batch size would change how many samples an epoch has")
        return StreamBatches(self._source.unbatch().batch(size), None)

    def rows_of(self, step: int) -> int:
        """Return the assumed samples of a batch."""
        return self.batch_size

    def arguments(self, epochs: int, seed: int, steps_done: int = 0) -> dict[str, Any]:
        """Return the data arguments of `fit`."""
        shuffle = self._shuffle and isinstance(self._source, keras.utils.PyDataset)
        return {"x": self._source, "steps_per_epoch": self._steps_argument, "shuffle": shuffle}


def training_batches(data: Data, batch_size: int, shuffle: bool, steps: int | None) -> ArrayBatches | StreamBatches:
    """Return training data as batches for `fit`."""
    if isinstance(data, ArrayData):
        return ArrayBatches(data, batch_size, shuffle, steps)
    return StreamBatches(data.source, steps, shuffle)


def read_batches(data: Data, limit: int | None = None, size: int = 256) -> Iterator[Batch]:
    """Yield batches in the order of the data.

    Args:
        data: Arrays or a stream.
        limit: Batches to yield at most.
        size: Samples per batch, for arrays.
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
        yield _unpack(batch, "the data" if isinstance(data, ArrayData) else data.name)


def _slice(data: ArrayData, start: int, size: int) -> Batch:
    def rows(array: NDArray[Any]) -> NDArray[Any]:
        return cast(array[start : start + size])

    return map_arrays(rows, data.inputs), rows(data.targets), None if data.weights is None else rows(data.weights)


def _unpack(batch: Any, name: str) -> Batch:
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        raise DataError(
            f"{name}: each batch must be (inputs, targets) or (inputs, targets, sample_weight), not "
            f"{type(batch).__name__}"
        )
    inputs, targets, weights = (*batch, None) if len(batch) == 2 else batch
    for part, values in (("inputs", inputs), ("targets", targets)):
        wrong = [value for value in keras.tree.flatten(values) or [None] if not hasattr(value, "shape")]
        if wrong:
            raise DataError(f"{name}: the {part} of a batch must be arrays or tensors, not {type(wrong[0]).__name__}")
    if first_array(targets).shape[:1] == (0,):
        raise DataError(f"{name}: a batch has no rows: leave it out")
    return _from_torch(inputs), _from_torch(targets), _from_torch(weights)


def _from_torch(values: Any) -> Any:
    """Return tensors of a PyTorch loader as arrays; other values unchanged."""
    return keras.tree.map_structure(lambda v: as_array(v) if type(v).__module__.startswith("torch") else v, values)


def _rows(batch: Batch, name: str) -> int:
    shape = first_array(batch[1]).shape
    if not len(shape):
        raise DataError(f"{name}: the data set yields single samples, not batches: give dataset.batch(32)")
    return int(shape[0])


def stream_length(source: Any) -> int | None:
    """Return the number of batches of a stream; -1 if unknown before reading it, None if infinite."""
    if hasattr(source, "cardinality"):
        size = int(source.cardinality())
        return None if size == -1 else (size if size >= 0 else -1)
    if isinstance(source, keras.utils.PyDataset):
        return -1 if source.num_batches is None else int(source.num_batches)
    return len(source) if hasattr(source, "__len__") else -1


def target_summary(data: Data) -> TargetSummary:
    """Return a summary of the targets: of whole arrays, or of the first batches of a stream."""
    summary = DataSummary()
    if isinstance(data, ArrayData):
        summary.add_targets(data.targets)
    else:
        for _, targets, _ in read_batches(data, _SAMPLE_BATCHES):
            summary.add_targets(as_array(first_array(targets)))
    return summary.targets
