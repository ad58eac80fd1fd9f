from __future__ import annotations

from functools import partial
from typing import Any

import keras
import pytest

from autotrainer.backends.keras3.model.loss_kinds import loss_info


@pytest.mark.parametrize(
    ("loss", "family", "expects", "targets"),
    [
        ("mse", "squared_error", "values", "values"),
        ("msle", "custom", "unknown", "values"),
        ("MeanAbsoluteError", "absolute_error", "values", "values"),
        (keras.losses.Huber(), "huber", "values", "values"),
        ("binary_crossentropy", "binary_cross_entropy", "probabilities", "values"),
        (keras.losses.BinaryCrossentropy(from_logits=True), "binary_cross_entropy", "logits", "values"),
        (keras.losses.categorical_crossentropy, "cross_entropy", "probabilities", "one_hot"),
        (partial(keras.losses.categorical_crossentropy, from_logits=True), "cross_entropy", "logits", "one_hot"),
        ("sparse_categorical_crossentropy", "cross_entropy", "probabilities", "index"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), "cross_entropy", "logits", "index"),
        (["hinge", "mse"], "hinge", "values", "values"),
        ({"a": "poisson"}, "poisson", "values", "values"),
        (lambda y_true, y_pred: y_pred, "custom", "unknown", "values"),
        ("no such loss", "custom", "unknown", "values"),
        (None, "none", "unknown", "values"),
    ],
)
def test_losses(loss: Any, family: str, expects: str, targets: str) -> None:
    info = loss_info(loss)
    assert (info.family, info.expects, info.targets, info.class_axis) == (family, expects, targets, -1)


def test_user_defined_loss_is_custom_whatever_its_name() -> None:
    class MeanSquaredError(keras.losses.MeanSquaredError):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return 2 * super().call(y_true, y_pred)

    def mean_squared_error(y_true: Any, y_pred: Any) -> Any:
        return y_pred

    assert loss_info(MeanSquaredError()).family == "custom"
    assert loss_info(mean_squared_error).family == "custom"
    assert loss_info(keras.losses.MeanSquaredError(reduction="sum")).reduction == "sum"


def test_label_smoothing() -> None:
    losses = keras.losses.CategoricalCrossentropy(label_smoothing=0.1), keras.losses.CategoricalCrossentropy()
    assert [loss_info(loss).smoothed for loss in losses] == [True, False]


@pytest.mark.parametrize(
    ("loss", "modulated"),
    [
        ("categorical_focal_crossentropy", True),
        (keras.losses.BinaryFocalCrossentropy(), True),
        (keras.losses.CategoricalGeneralizedCrossEntropy(), True),
        (keras.losses.CategoricalCrossentropy(), False),
    ],
)
def test_focal_and_generalized_losses_are_no_entropies(loss: Any, modulated: bool) -> None:
    assert (loss_info(loss).modulated, loss_info(loss).plain) == (modulated, not modulated)
