"""The data and losses of managed trainings, with the edits that concern them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.data.batches import Batch, Batches, open_data
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.data.targets import ClassWeightedLoss, ConvertedLoss
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.model.losses import TolerantLoss, WeightedLoss, unreduced
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.edits import (
    DropBadRows,
    Edit,
    LeadPadding,
    NumberClasses,
    ScaleInputs,
    ScaleTargets,
    SetBatchSize,
    SetLoss,
    ShuffleData,
    WeightClasses,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import ArrayData, Data, StreamData
from autotrainer.training.column_scaling import ColumnScaling
from autotrainer.training.data_edits import (
    FittedEdits,
    bad_row_count,
    class_counts,
    class_labels,
    class_weights,
    conversions,
    last,
    trailing_token,
)
from autotrainer.training.target_scaling import TargetScaling

__all__ = ["TrainingData", "make_objective", "trains_on_another_loss"]


def make_objective(request: FitRequest, loss: nn.Module | None, edits: Sequence[Edit] = ()) -> Objective:
    """Return what computes the loss: the user's ``step``, or a loss module with weights and edits applied.

    Args:
        request: The training.
        loss: The loss module; None with a ``step``.
        edits: The edits, with fitted numbers.
    """
    weighted = any(
        isinstance(data, ArrayData) and data.weights is not None
        for data in (request.train, request.validation, request.test)
    )
    by_class = last(edits, WeightClasses)
    if loss is not None and request.step is None and (by_class is not None or weighted):
        info, entries = loss_info(loss), unreduced(loss, balanced=by_class is not None)
        loss = WeightedLoss(entries, info) if by_class is None else ClassWeightedLoss(entries, info, by_class.weights)
    if loss is not None and loss_info(loss).expects in ("probabilities", "unknown"):
        loss = TolerantLoss(loss)
    converted = conversions(edits)
    if loss is not None and converted:
        loss = ConvertedLoss(loss, converted)
    return Objective(loss, request.step)


def trains_on_another_loss(edits: Sequence[Edit]) -> bool:
    """Return whether edits replace the loss that is trained on, or its targets or weights."""
    return bool(conversions(edits)) or any(isinstance(edit, SetLoss | WeightClasses) for edit in edits)


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The data of managed trainings as batches, and the numbers that are fitted on them.

    Attributes:
        request: The training.
        examples: A few samples, in types that model and loss accept.
        device: Device of the batches.
        dtype: Floating-point type of the model.
        fitted: Edits with the numbers that are fitted on the training data.
    """

    request: FitRequest
    examples: Examples
    device: torch.device
    dtype: torch.dtype
    fitted: FittedEdits = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fitted", FittedEdits(self._fit))

    def open(self, data: Data, size: int, **options: Any) -> Batches:
        """Return data as batches; ``options`` are those of `open_data`."""
        pairs = self.request.step is None
        return open_data(data, size, self.device, self.dtype, floating=self.examples.floating, pairs=pairs, **options)

    def train(self, edits: Sequence[Edit] = (), seed: int = 0) -> Batches:
        """Return the training data as batches, with the edits that concern them."""
        resized = last(edits, SetBatchSize)
        return self.open(
            self.request.train,
            self.request.batch_size if resized is None else resized.size,
            rebatch=resized is not None,
            shuffle=None if last(edits, ShuffleData) is None else seed,
            clean=last(edits, DropBadRows) is not None,
        )

    def read_targets(self, data: StreamData, add: Callable[[NDArray[Any]], None]) -> None:
        """Read a stream once, and pass the targets of each batch on; random states are preserved."""
        with preserve_random_state(), closing(self.open(data, self.request.batch_size).read()) as batches:
            for batch in batches:
                if isinstance(batch.targets, Tensor):
                    add(_to_host(batch.targets))

    def _fit(self, edit: Edit) -> Edit:
        if isinstance(edit, ScaleInputs) and not edit.mean:
            return self._input_scaling()
        if isinstance(edit, ScaleTargets) and not edit.mean:
            return self._target_scaling(edit)
        if isinstance(edit, LeadPadding) and edit.token is None:
            with self._batches() as batches:
                return replace(edit, token=trailing_token(_to_host(batch.inputs) for batch in batches))
        if isinstance(edit, NumberClasses) and not edit.labels:
            with self._targets() as targets:
                return replace(edit, labels=class_labels(targets))
        if isinstance(edit, WeightClasses) and not edit.weights:
            with self._targets() as targets:
                return replace(edit, weights=class_weights(class_counts(targets)))
        if isinstance(edit, DropBadRows) and edit.rows is None:
            rows, good = (
                sum(batch.rows for batch in self.open(self.request.train, self.request.batch_size, clean=clean).read())
                for clean in (False, True)
            )
            return replace(edit, rows=bad_row_count(rows, good))
        return edit

    @contextmanager
    def _batches(self) -> Iterator[Iterator[Batch]]:
        """Read the training data once, random states preserved.

        The reader is closed here: if its consumer raises, the traceback would keep it, and it would restore random
        states whenever that is collected, in the middle of another training.
        """
        with preserve_random_state(), closing(self.train().read()) as batches:
            yield batches

    @contextmanager
    def _targets(self) -> Iterator[Iterator[NDArray[Any]]]:
        with self._batches() as batches:
            yield (_to_host(batch.targets) for batch in batches)

    def _input_scaling(self) -> ScaleInputs:
        columns = ColumnScaling()
        with self._batches() as batches:
            for batch in batches:
                targets = batch.targets if isinstance(batch.targets, Tensor) else None
                columns.add(_to_host(_scaled_input(batch)), None if targets is None else _to_host(targets))
        return columns.fit()

    def _target_scaling(self, edit: ScaleTargets) -> ScaleTargets:
        scaling = TargetScaling(edit)
        with self._batches() as batches:
            for batch in batches:
                inputs = first_tensor(batch.inputs, floating=True) if edit.logarithm else None
                scaling.add(_to_host(batch.targets), None if inputs is None else _to_host(inputs))
        return scaling.fit()


def _scaled_input(batch: Batch) -> Tensor:
    tensor = first_tensor(batch.inputs, floating=True)
    if tensor is None:
        raise ConfigError("there are no floating-point inputs to scale")
    return tensor


def _to_host(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array in host memory; floating-point values in double precision."""
    tensor = tensor.detach().cpu()
    return np.asarray(tensor.double().numpy() if tensor.is_floating_point() else tensor.numpy())
