"""The user's data sets without bad rows, or shuffled."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from autotrainer.errors import ConfigError
from autotrainer.records.data import as_array

__all__ = ["clean", "shuffled"]


def clean(source: Any) -> Any:
    """Return a data set without the rows that hold nonfinite values.

    Raises:
        ConfigError: If this kind of data set does not allow it.
    """
    if isinstance(source, keras.utils.PyDataset):
        return CleanDataset(source)
    if not hasattr(source, "unbatch"):
        raise ConfigError(f"rows can't be dropped from a {type(source).__name__}: drop them where it is made")
    import tensorflow as tf

    def is_finite(*row: Any) -> Any:
        floating = [t for t in tf.nest.flatten(row) if t.dtype.is_floating]
        finite = [tf.reduce_all(tf.math.is_finite(t)) for t in floating]
        return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)

    good = source.unbatch().filter(is_finite)
    if source.cardinality() == tf.data.INFINITE_CARDINALITY:
        return good.batch(_batch_size(source)).apply(tf.data.experimental.assert_cardinality(-1))
    return _batched(good, _rows(good), _batch_size(source))


def shuffled(source: Any, seed: int) -> Any:
    """Return a `tf.data.Dataset` that is shuffled in each epoch, with a buffer for all rows.

    Raises:
        ConfigError: If this kind of data set does not allow it.
    """
    if not hasattr(source, "unbatch"):
        raise ConfigError(f"a {type(source).__name__} sets the order of its rows itself: shuffle them there")
    import tensorflow as tf

    if source.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError("the data set is infinite: shuffle it where it is made")
    rows = _rows(source.unbatch())
    return _batched(source.unbatch().shuffle(rows, seed=seed), rows, _batch_size(source))


def _rows(dataset: Any) -> int:
    return int(dataset.reduce(np.int64(0), lambda count, *_: count + 1))


def _batched(dataset: Any, rows: int, size: int) -> Any:
    """Return a data set in batches, with its length: Keras warns if a data set of unknown length ends."""
    import tensorflow as tf

    return dataset.batch(size).apply(tf.data.experimental.assert_cardinality(-(-rows // size)))


def _batch_size(source: Any) -> int:
    for batch in source.take(1):
        return int(keras.tree.flatten(batch)[0].shape[0])
    raise ConfigError("the data set holds no batch")


class CleanDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of a `PyDataset` without the rows that hold nonfinite values.

    Args:
        source: The data set.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(workers=1)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        batch = self._source[index]
        arrays = [as_array(a) for a in keras.tree.flatten(batch) if a is not None]
        good = np.ones(len(arrays[0]), bool)
        for array in arrays:
            if array.dtype.kind == "f":
                good &= np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not good.any():
            raise ConfigError(f"all rows of batch {index} hold values that are not finite")
        return keras.tree.map_structure(lambda a: None if a is None else as_array(a)[good], batch, none_is_leaf=True)

    def on_epoch_end(self) -> None:
        """Report the end of an epoch to the data set."""
        self._source.on_epoch_end()
