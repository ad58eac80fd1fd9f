"""The data arguments of `fit`: normalized, split and checked against the model's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numpy.typing import NDArray

from autotrainer.adapter.spec import FitRequest
from autotrainer.adapter.trainer import Trainer
from autotrainer.diagnostics.first_rows import row_limit
from autotrainer.errors import DataError
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, Data, arrays_of, normalize
from autotrainer.records.task import TaskContext
from autotrainer.training.holdout import can_hold_out, hold_out

__all__ = ["class_index_error", "ignored_class", "prepare_data", "validates_on_training_rows"]

_SMALL = 256
"""Training rows up to which they are compared with the validation rows, to see whether these are the same."""


def prepare_data(
    train_data: Any, validation_data: Any, test_data: Any, seed: int, loss: Any = None
) -> tuple[Data, Data, Data | None, Literal["validation", "training"]]:
    """Return training, validation and test data in normalized form, and on which of the first two to judge.

    Without validation data, some training rows are held back for it. If there are too few, the validation data returned
    are the training data.

    Args:
        train_data: The user's argument, as the two after it.
        validation_data: The same.
        test_data: The same.
        seed: Seed of the draw.
        loss: The loss, or its name.

    Raises:
        DataError: If data are invalid, differ in form, or no validation data are given and none can be held back.
    """
    train = normalize(train_data, "train_data")
    judged_on: Literal["validation", "training"] = "validation"
    if validation_data is not None:
        validation = normalize(validation_data, "validation_data")
    elif isinstance(train, ArrayData):
        indices = _takes_indices(loss)
        if can_hold_out(train, indices=indices):
            train, validation = hold_out(train, seed, indices=indices)
        else:
            validation, judged_on = train, "training"
    else:
        raise DataError(
            f"train_data is a {type(train.source).__name__}, from which no validation rows can be held back: pass "
            "validation_data"
        )
    test = None if test_data is None else normalize(test_data, "test_data")
    for name, other in (("validation_data", validation), ("test_data", test)):
        if isinstance(train, ArrayData) and isinstance(other, ArrayData):
            _check_same_form(train, other, name)
    return train, validation, test, judged_on


def validates_on_training_rows(request: FitRequest, trainer: Trainer) -> bool:
    """Return whether the validation rows are the training rows, and these are too few to hold any back instead.

    With more rows this is a fault that a rule reports. Data that can't be read count as others, with a warning: if a
    training can't read them either, it tells why.

    Args:
        request: The request, in normalized form.
        trainer: Reads loaders and data sets, if they are known to be small.
    """
    if request.judged_on == "training":
        return True
    if (trainer.context.train_rows or _SMALL + 1) > _SMALL:
        return False
    try:
        train = _all_rows(trainer, request.train, _SMALL)
        if train is None or can_hold_out(train, indices=_takes_indices(request.loss)):
            return False
        validation = _all_rows(trainer, request.validation, train.rows)
        return validation is not None and _sorted_rows(train) == _sorted_rows(validation)
    except Exception as error:  # noqa: BLE001 - the training does without
        logger.warning("the validation rows were not compared with the training rows: %r", error)
        return False


def _all_rows(trainer: Trainer, data: Data, most: int) -> ArrayData | None:
    """Return all rows; None if there are more than so many, or more bytes than may be read."""
    if isinstance(data, ArrayData):
        return data if data.rows <= most else None
    limit = row_limit(trainer, data, most + 1)
    rows = trainer.sample(data, limit) if limit else None
    return None if rows is None or rows.rows >= limit else rows


def _sorted_rows(data: ArrayData) -> list[bytes]:
    arrays = (*arrays_of(data.inputs), data.targets)
    return sorted(b"".join(array[row].tobytes() for array in arrays) for row in range(data.rows))


def _takes_indices(loss: Any) -> bool:
    """Return whether a loss takes class indices, as far as its name or its attributes tell."""
    name = loss if isinstance(loss, str) else type(loss).__name__
    return "sparse_categorical" in name or hasattr(loss, "ignore_index") or hasattr(loss, "ignore_class")


def _check_same_form(train: ArrayData, other: ArrayData, name: str) -> None:
    """Check that data have the same structure as the training data; lengths of sequences may differ."""
    forms = [_form(data.inputs) for data in (train, other)]
    if forms[0] != forms[1]:
        raise DataError(f"{name} has inputs of {forms[1]}, train_data of {forms[0]}: pass both in the same form")
    if train.targets.ndim != other.targets.ndim:
        raise DataError(
            f"{name} has targets of shape {other.targets.shape}, train_data of shape {train.targets.shape}: "
            "pass both in the same form"
        )


def _form(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return "{" + ", ".join(f"{name!r}: {_shape(array)}" for name, array in sorted(inputs.items())) + "}"
    if isinstance(inputs, tuple):
        return "(" + ", ".join(map(_shape, inputs)) + ")"
    return f"shape {_shape(inputs)}"


def _shape(array: NDArray[Any]) -> str:
    """Return a shape as text, with ``*`` for axes that may differ: rows, time, and image sides."""
    last = array.ndim - 1 if array.ndim == 3 or (array.ndim == 2 and array.dtype.kind == "f") else None
    return "(" + ", ".join(str(size) if axis == last else "*" for axis, size in enumerate(array.shape)) + ")"


def ignored_class(request: FitRequest) -> int | None:
    """Return the class index that the loss ignores (PyTorch's ``ignore_index``, Keras' ``ignore_class``), or None."""
    loss = getattr(request.model, "loss", None) if request.loss is None else request.loss
    index = getattr(loss, "ignore_index", getattr(loss, "ignore_class", None))
    return index if isinstance(index, int) else None


def class_index_error(request: FitRequest, context: TaskContext, masked: int | None) -> DataError | None:
    """Return an error if a class index has no output; that of the framework is hard to understand."""
    units = context.output_units
    indexed = context.loss.family == "cross_entropy" and context.loss.targets in ("index", "either")
    if context.framework not in ("pytorch", "keras3") or not indexed or units is None or request.step is not None:
        return None
    for name, data in (("train_data", request.train), ("validation_data", request.validation)):
        if (
            not isinstance(data, ArrayData)
            or data.targets.dtype.kind not in "iu"
            or (data.targets.ndim > 1 and units < 2)
        ):
            continue
        labels = data.targets[data.targets != masked]
        invalid = labels[(labels < 0) | (labels >= units)]
        if invalid.size:
            example = int(invalid.max() if invalid.max() >= units else invalid.min())
            return DataError(
                f"{name} has class index {example}, but the model has {units} outputs, for classes 0 to {units - 1}: "
                "number the classes from 0, or widen the output"
            )
    return None
