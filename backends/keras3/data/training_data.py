"""What managed trainings are made of besides the model: data and their weights, with the edits that are about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.data.feeding import ArrayFeed, StreamFeed, batches, first_array, make_feed
from autotrainer.backends.keras3.data.sample_weights import weighted
from autotrainer.backends.keras3.data.streams import clean, shuffled
from autotrainer.edits import (
    DropBadRows,
    Edit,
    NumberClasses,
    ScaleTargets,
    SetBatchSize,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data, StreamData, as_array, finite_rows
from autotrainer.records.task import MASKED

__all__ = ["TrainingData", "last"]

_LEAST_GOOD = 0.5
"""Share of the training rows that must be left without the bad ones: with less, most rows lack something, and it is for
the user to say what."""

E = TypeVar("E", bound=Edit)


def last(edits: Sequence[Edit], kind: type[E]) -> E | None:
    """Return the last edit of a kind, or None."""
    return next((edit for edit in reversed(edits) if isinstance(edit, kind)), None)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training data as `fit` takes them, and the numbers that are fitted on them.

    Attributes:
        data: The training data as given.
        batch_size: Samples a batch, for arrays.
        shuffle: Whether they are shuffled as given.
        steps: ``steps_per_epoch``, or None.
        class_weight: The user's weights of classes where `fit` applies them itself, or None.
        known: What was fitted already, or why it can't be.
    """

    data: Data
    batch_size: int
    shuffle: bool
    steps: int | None
    class_weight: Any = None
    known: dict[Edit, Edit | ConfigError] = field(default_factory=dict)

    def feed(self, edits: Sequence[Edit] = (), seed: int = 0) -> ArrayFeed | StreamFeed:
        """Return the training data with the edits that are about them.

        Raises:
            ConfigError: If one can't be applied.
        """
        data, shuffle = self.data, self.shuffle
        if last(edits, DropBadRows) is not None:
            data = data.take(finite_rows(data)) if isinstance(data, ArrayData) else StreamData(clean(data.source))
        by_class = last(edits, WeightClasses)
        if by_class is not None and isinstance(data, ArrayData):
            data = _weighted(data, by_class.weights)
        if last(edits, ShuffleData) is not None:
            if isinstance(data, ArrayData) and shuffle:
                raise ConfigError("rows of arrays are shuffled in each epoch already")
            shuffle = True
            data = data if isinstance(data, ArrayData) else StreamData(shuffled(data.source, seed))
        feed = make_feed(data, self.batch_size, shuffle, self.steps)
        resized = last(edits, SetBatchSize)
        return feed if resized is None else feed.resized(resized.size)

    def options(self, edits: Sequence[Edit]) -> dict[str, Any]:
        """Return the arguments of `fit` that weigh the classes of a data set."""
        by_class = last(edits, WeightClasses)
        if by_class is None or isinstance(self.data, ArrayData):
            return {}
        return {"class_weight": dict(enumerate(by_class.weights))}

    def filled(self, edit: Edit) -> Edit:
        """Return an edit with the numbers that are fitted on the training data.

        Raises:
            ConfigError: If the data don't allow it.
        """
        if edit not in self.known:
            try:
                self.known[edit] = self._fitted(edit)
            except ConfigError as error:
                self.known[edit] = error
        found = self.known[edit]
        if isinstance(found, ConfigError):
            raise found
        return found

    def _fitted(self, edit: Edit) -> Edit:
        if isinstance(edit, ScaleTargets) and not edit.mean:
            mean, std = self._target_scale()
            return replace(edit, mean=mean, std=std)
        if isinstance(edit, NumberClasses) and not edit.labels:
            return replace(edit, labels=tuple(sorted(self._labels(0))))
        if isinstance(edit, WeightClasses) and not edit.weights:
            return replace(edit, weights=self._class_weights())
        if isinstance(edit, DropBadRows) and edit.rows is None:
            return replace(edit, rows=self._bad_rows())
        return edit

    def _targets(self, data: Data | None = None) -> Iterator[NDArray[Any]]:
        for _, targets, _ in batches(self.data if data is None else data, self.steps, 8192):
            yield as_array(first_array(targets))

    def _target_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        columns = [np.asarray(t, np.float64) for t in self._targets()]
        rows = np.concatenate([c if c.ndim == 2 else c.reshape(-1, 1) for c in columns])
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            raise ConfigError("no target is finite")
        mean, std = rows.mean(axis=0), rows.std(axis=0)
        std = np.where(std > 1e-8 * np.maximum(np.abs(mean), 1e-30), std, 1.0)
        return tuple(mean.tolist()), tuple(std.tolist())

    def _labels(self, least: int) -> Counter[int]:
        """Return how many rows of each class there are.

        Raises:
            ConfigError: If the targets are no class numbers from ``least`` on, one a row.
        """
        found = Counter[int]()
        for targets in self._targets():
            if targets.ndim == 2 and targets.shape[1] > 1 and (targets.sum(axis=1) == 1).all():
                targets = targets.argmax(axis=1)
            if targets.size != len(targets) or (targets != np.round(targets)).any():
                raise ConfigError("the targets are no class numbers, one a row")
            found.update(np.asarray(targets, np.int64).reshape(-1).tolist())
        del found[MASKED]
        if not found or min(found) < least:
            raise ConfigError(f"the targets are no class numbers from {least} on")
        return found

    def _class_weights(self) -> tuple[float, ...]:
        """Return rows ÷ (classes × rows of the class), as King and Zeng 2001; 0 for one that never occurs."""
        found = self._labels(-1)
        signed = set(found) == {-1, 1}
        if min(found) < 0 and not signed:
            raise ConfigError("a class can't have the number -1")
        if len(found) < 2:
            raise ConfigError("the training data hold a single class")
        if not isinstance(self.data, ArrayData):
            if signed:
                raise ConfigError("Keras weighs classes of a data set from 0 on, not -1 and 1")
            if self.class_weight:
                raise ConfigError("fit_args has a class_weight already")
            weighted(self.data, None, dict.fromkeys(range(max(found) + 1), 1.0))
        whole = found.total() / len(found)
        labels = (-1, 1) if signed else range(max(found) + 1)
        return tuple(whole / found[label] if found[label] else 0.0 for label in labels)

    def _bad_rows(self) -> int:
        data = self.data
        if isinstance(data, ArrayData):
            rows, good = data.rows, len(finite_rows(data))
        else:
            rows = sum(map(len, self._targets()))
            good = sum(map(len, self._targets(StreamData(clean(data.source)))))
        if good == rows:
            raise ConfigError("all values of the training data are finite")
        if good < _LEAST_GOOD * rows:
            raise ConfigError(
                f"{rows - good} of {rows} training rows hold values that are not finite: fill them, or leave out the "
                "columns concerned"
            )
        return rows - good


def _weighted(data: ArrayData, weights: Sequence[float]) -> ArrayData:
    """Return data whose rows count by their class besides the weights that they have."""
    targets = data.targets
    if targets.ndim == 2 and targets.shape[1] > 1:
        classes = targets.argmax(axis=1)
    else:
        classes = np.asarray(np.round(targets), np.int64).reshape(-1)
        classes = np.where(classes == -1, 0, classes) if len(weights) == 2 else classes
    own = np.where(classes < 0, 0.0, np.asarray(weights)[np.clip(classes, 0, len(weights) - 1)])
    own = own.astype(keras.config.floatx())
    given = data.weights
    if given is not None and given.size != len(own):
        raise ConfigError("the training data have weights of their own for each step of a sequence")
    return ArrayData(data.inputs, targets, own if given is None else own * given.reshape(-1))
