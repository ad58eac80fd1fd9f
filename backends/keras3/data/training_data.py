"""What managed trainings are made of besides the model: data and their weights, with the edits that are about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.data.batches import (
    ArrayBatches,
    StreamBatches,
    first_array,
    read_batches,
    training_batches,
)
from autotrainer.backends.keras3.data.sample_weights import weighted
from autotrainer.backends.keras3.data.streams import clean, shuffled
from autotrainer.backends.keras3.model.loss_kinds import loss_info
from autotrainer.edits import (
    DropBadRows,
    Edit,
    LeadPadding,
    NumberClasses,
    ScaleEachTarget,
    ScaleTargets,
    SetBatchSize,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data, as_array, finite_rows
from autotrainer.training.data_edits import (
    FittedEdits,
    Moments,
    bad_row_count,
    class_counts,
    class_labels,
    class_weights,
    last,
    row_weights,
    trailing_token,
)
from autotrainer.training.target_scaling import TargetScaling

__all__ = ["TrainingData"]

_DIFFERENCES = ("squared_error", "absolute_error", "huber")
"""Families of losses that compare outputs and targets by their differences."""

_NEAR = 3.0
"""Standard deviation, or its inverse, up to which targets with a mean within one of them are at unit scale."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The training data as `fit` takes them, and the numbers that are fitted on them.

    Attributes:
        data: The training data as given.
        batch_size: Samples a batch, for arrays.
        shuffle: Whether they are shuffled as given.
        steps: ``steps_per_epoch``, or None.
        class_weight: The user's weights of classes, or None; those of arrays are the weights of their rows.
        losses: The loss of each of several outputs, by name.
        fitted: Edits with the numbers that are fitted on the training data.
    """

    data: Data
    batch_size: int
    shuffle: bool
    steps: int | None
    class_weight: Any = None
    losses: Mapping[str, Any] = field(default_factory=dict)
    fitted: FittedEdits = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fitted", FittedEdits(self._fit))

    def feed(self, edits: Sequence[Edit] = (), seed: int = 0) -> ArrayBatches | StreamBatches:
        """Return the training data with the edits that are about them.

        Raises:
            ConfigError: If one can't be applied.
        """
        data, shuffle = self.data, self.shuffle
        if last(edits, DropBadRows) is not None:
            data = (
                data.take(finite_rows(data))
                if isinstance(data, ArrayData)
                else replace(data, source=clean(data.source))
            )
        by_class = last(edits, WeightClasses)
        if by_class is not None and isinstance(data, ArrayData):
            own = None if self.class_weight else data.weights  # those of classes are replaced
            data = _weighted(ArrayData(data.inputs, data.targets, own), by_class.weights)
        if last(edits, ShuffleData) is not None:
            if isinstance(data, ArrayData) and shuffle:
                raise ConfigError("rows of arrays are shuffled in each epoch already")
            shuffle = True
            data = data if isinstance(data, ArrayData) else replace(data, source=shuffled(data.source, seed))
        feed = training_batches(data, self.batch_size, shuffle, self.steps)
        resized = last(edits, SetBatchSize)
        return feed if resized is None else feed.resized(resized.size)

    def options(self, edits: Sequence[Edit]) -> dict[str, Any]:
        """Return the arguments of `fit` that weigh the classes of a data set."""
        by_class = last(edits, WeightClasses)
        if by_class is None or isinstance(self.data, ArrayData):
            return {}
        return {"class_weight": dict(enumerate(by_class.weights))}

    def weighs_classes(self, edits: Sequence[Edit] = ()) -> bool:
        """Return whether classes have unequal weights in the loss: 1 for those that the user's weights leave out."""
        by_class, own = last(edits, WeightClasses), self.class_weight or {}
        weights = set(by_class.weights if by_class is not None else own.values())
        return len(weights) > 1 or (by_class is None and len(own) == 1 and weights != {1})

    def weighs_rows(self, edits: Sequence[Edit] = ()) -> bool:
        """Return whether rows have unequal weights in the loss: their own, or those of their classes."""
        own = None if self.class_weight or not isinstance(self.data, ArrayData) else self.data.weights
        return self.weighs_classes(edits) or (own is not None and bool(np.ptp(own) > 0))

    def _fit(self, edit: Edit) -> Edit:
        if isinstance(edit, ScaleTargets) and not edit.mean:
            scaling = TargetScaling(edit)
            for inputs, targets, _ in read_batches(self.data, self.steps, 8192):
                table = None if keras.tree.is_nested(inputs) else as_array(inputs)
                scaling.add(as_array(first_array(targets)), table if edit.logarithm else None)
            return scaling.fit()
        if isinstance(edit, ScaleEachTarget) and not edit.outputs:
            return self._each_target_scaled()
        if isinstance(edit, LeadPadding) and edit.token is None:
            batches = read_batches(self.data, self.steps, 8192)
            return replace(edit, token=trailing_token(as_array(first_array(inputs)) for inputs, _, _ in batches))
        if isinstance(edit, NumberClasses) and not edit.labels:
            return replace(edit, labels=class_labels(self._targets()))
        if isinstance(edit, WeightClasses) and not edit.weights:
            return replace(edit, weights=self._class_weights())
        if isinstance(edit, DropBadRows) and edit.rows is None:
            return replace(edit, rows=bad_row_count(*self._rows()))
        return edit

    def _each_target_scaled(self) -> ScaleEachTarget:
        differences = [name for name, loss in self.losses.items() if loss_info(loss).family in _DIFFERENCES]
        moments = {name: Moments() for name in differences}
        for _, targets, _ in read_batches(self.data, self.steps, 8192) if differences else ():
            for name in differences:
                if not isinstance(targets, Mapping) or keras.tree.is_nested(targets.get(name, {})):
                    raise ConfigError("the targets are not named as their losses are")
                moments[name].add(as_array(targets[name]).reshape(-1, 1))
        scales = {name: (mean[0], std[0]) for name, (mean, std) in ((n, m.scale()) for n, m in moments.items())}
        far = [name for name, (mean, std) in scales.items() if not _at_unit_scale(mean, std)]
        if not far:
            raise ConfigError("no output has a loss of differences and targets far from unit scale")
        return ScaleEachTarget(tuple(far), *zip(*(scales[name] for name in far), strict=True))

    def _targets(self, data: Data | None = None) -> Iterator[NDArray[Any]]:
        for _, targets, _ in read_batches(self.data if data is None else data, self.steps, 8192):
            yield as_array(first_array(targets))

    def _class_weights(self) -> tuple[float, ...]:
        counts = class_counts(self._targets())
        if not isinstance(self.data, ArrayData) and len(counts) > 1:
            if min(counts) < 0:
                raise ConfigError("Keras weighs classes of a data set from 0 on, not -1 and 1")
            weighted(self.data, None, dict.fromkeys(range(max(counts) + 1), 1.0))
        return class_weights(counts)

    def _rows(self) -> tuple[int, int]:
        """Return how many rows there are, and how many hold finite values alone."""
        data = self.data
        if isinstance(data, ArrayData):
            return data.rows, len(finite_rows(data))
        return sum(map(len, self._targets())), sum(map(len, self._targets(replace(data, source=clean(data.source)))))


def _at_unit_scale(mean: float, std: float) -> bool:
    """Return whether targets need no scaling, as for a single output."""
    return abs(mean) <= std and 1 / _NEAR <= std <= _NEAR


def _weighted(data: ArrayData, weights: Sequence[float]) -> ArrayData:
    """Return data whose rows count by their class besides the weights that they have."""
    by_class = row_weights(data.targets, weights).astype(keras.config.floatx())
    by_row = data.weights
    if by_row is not None and by_row.size != len(by_class):
        raise ConfigError("the training data already have a weight for each step of a sequence")
    return ArrayData(data.inputs, data.targets, by_class if by_row is None else by_class * by_row.reshape(-1))
