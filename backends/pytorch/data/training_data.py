"""What managed trainings are made of besides the model: data and losses, with the edits that are about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.batches import Batches, open_data
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.data.scaling import fit_scale, fit_target_scale
from autotrainer.backends.pytorch.data.targets import (
    ClassWeightedLoss,
    ConvertedLoss,
    class_counts,
    class_weights,
    conversions,
    labels_of,
)
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import TolerantLoss, WeightedLoss, unreduced
from autotrainer.edits import (
    DropBadRows,
    Edit,
    NumberClasses,
    ScaleInputs,
    ScaleTargets,
    SetBatchSize,
    SetLoss,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data

__all__ = ["TrainingData", "make_objective", "trains_otherwise"]

_LEAST_GOOD = 0.5
"""Share of the training rows that must be left without the bad ones: with less, most rows lack something, and it is for
the user to say what."""

E = TypeVar("E", bound=Edit)


def make_objective(request: FitRequest, loss: nn.Module | None, edits: Sequence[Edit] = ()) -> Objective:
    """Return what computes the loss: the user's ``step``, or a loss module, with the weights and edits in force.

    Args:
        request: The training as given.
        loss: The loss module; None with a ``step``.
        edits: The edits, with fitted numbers.
    """
    weighted = any(
        isinstance(data, ArrayData) and data.weights is not None for data in (request.train, request.validation)
    )
    by_class = last(edits, WeightClasses)
    if loss is not None and request.step is None and (by_class is not None or weighted):
        info, entries = loss_info(loss), unreduced(loss)
        loss = WeightedLoss(entries, info) if by_class is None else ClassWeightedLoss(entries, info, by_class.weights)
    if loss is not None and loss_info(loss).expects in ("probabilities", "unknown"):
        loss = TolerantLoss(loss)
    converted = conversions(edits)
    if loss is not None and converted:
        loss = ConvertedLoss(loss, converted)
    return Objective(loss, request.step)


def trains_otherwise(edits: Sequence[Edit]) -> bool:
    """Say whether edits train on another loss than the one given."""
    return bool(conversions(edits)) or any(isinstance(edit, SetLoss | WeightClasses) for edit in edits)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data of managed trainings as batches, and the numbers that are fitted on them.

    Attributes:
        request: The training as given.
        examples: A few samples, in types that model and loss take.
        device: Where batches go.
        dtype: Floating-point type of the model.
        known: What was fitted already, or why it can't be.
    """

    request: FitRequest
    examples: Examples
    device: torch.device
    dtype: torch.dtype
    known: dict[Edit, Edit | ConfigError] = field(default_factory=dict)

    def open(self, data: Data, size: int, **options: Any) -> Batches:
        """Return data as batches; ``options`` are those of `open_data`."""
        pairs = self.request.step is None
        return open_data(data, size, self.device, self.dtype, floating=self.examples.floating, pairs=pairs, **options)

    def train(self, edits: Sequence[Edit] = (), seed: int = 0) -> Batches:
        """Return the training data as batches, with the edits that are about them."""
        resized = last(edits, SetBatchSize)
        return self.open(
            self.request.train,
            self.request.batch_size if resized is None else resized.size,
            rebatch=resized is not None,
            shuffle=None if last(edits, ShuffleData) is None else seed,
            clean=last(edits, DropBadRows) is not None,
        )

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
        if isinstance(edit, ScaleInputs) and not edit.mean:
            mean, std = fit_scale(self.train())
            return replace(edit, mean=mean, std=std)
        if isinstance(edit, ScaleTargets) and not edit.mean:
            mean, std = fit_target_scale(self.train())
            return replace(edit, mean=mean, std=std)
        if isinstance(edit, NumberClasses) and not edit.labels:
            return replace(edit, labels=labels_of(self.train()))
        if isinstance(edit, WeightClasses) and not edit.weights:
            return replace(edit, weights=class_weights(class_counts(self.train())))
        if isinstance(edit, DropBadRows) and edit.rows is None:
            return replace(edit, rows=self._bad_rows())
        return edit

    def _bad_rows(self) -> int:
        rows, good = (
            sum(batch.rows for batch in self.open(self.request.train, self.request.batch_size, clean=clean).read())
            for clean in (False, True)
        )
        if good == rows:
            raise ConfigError("all values of the training data are finite")
        if good < _LEAST_GOOD * rows:
            raise ConfigError(
                f"{rows - good} of {rows} training rows hold values that are not finite: fill them, or leave out the "
                "columns concerned"
            )
        return rows - good


def last(edits: Sequence[Edit], kind: type[E]) -> E | None:
    """Return the last edit of a kind, or None."""
    return next((edit for edit in reversed(edits) if isinstance(edit, kind)), None)
