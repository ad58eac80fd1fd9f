"""The demo's trainings in Keras 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from autotrainer import watch
from autotrainer.demo.cases import BUDGET, SEED, Recipe
from autotrainer.demo.data import Rows, load

if TYPE_CHECKING:
    from autotrainer.monitoring.monitor import Monitor

__all__ = ["fit_arguments", "train_watched"]


def fit_arguments(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of `autotrainer.fit` for a recipe."""
    split = load(recipe.data)
    return {
        "model": _model(recipe),
        "train_data": _rows(split.train, recipe),
        "validation_data": _rows(split.validation, recipe),
        "test_data": _rows(split.test, recipe),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "seed": SEED,
        "budget": BUDGET,
    }


def train_watched(recipe: Recipe) -> tuple[Monitor, float]:
    """Train inside `autotrainer.watch`; return the closed monitor and the accuracy on test data."""
    split = load(recipe.data)
    model = _model(recipe)
    x, y = _rows(split.train, recipe)
    with watch(model) as monitor:
        model.fit(
            x,
            y,
            validation_data=_rows(split.validation, recipe),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            verbose=0,
        )
    return monitor, float(model.evaluate(*_rows(split.test, recipe), verbose=0)[1])


def _rows(rows: Rows, recipe: Recipe) -> Rows:
    x, y = rows
    return x, y.astype(np.float32)[:, None] if recipe.data == "circle" else np.eye(3, dtype=np.float32)[y]


def _model(recipe: Recipe) -> Any:
    """Build and compile the model, with seeded weights."""
    import keras

    keras.utils.set_random_seed(SEED)
    layers = [
        keras.layers.Dense(
            layer.units,
            activation=layer.activation,
            kernel_initializer="he_uniform" if layer.he else "glorot_uniform",
        )
        for layer in recipe.layers
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    if recipe.optimizer == "adam":
        optimizer = keras.optimizers.Adam(recipe.learning_rate)
    else:
        optimizer = keras.optimizers.SGD(recipe.learning_rate, recipe.momentum)
    loss = "binary_crossentropy" if recipe.data == "circle" else "categorical_crossentropy"
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model
