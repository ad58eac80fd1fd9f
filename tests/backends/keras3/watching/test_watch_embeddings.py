"""Embeddings in Keras: gradients of the rows that occur, padding, positions, copies of tables, origins of weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import autotrainer
from autotrainer.backends.keras3.model.ties import with_ties
from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.model.weight_patterns import with_weight_forms


class Positions(layers.Layer):  # type: ignore[misc]
    """Adds embeddings of positions, detached or not."""

    def __init__(self, detach: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.supports_masking = True
        self.detach = detach

    def build(self, shape: Any) -> None:
        """Create the table."""
        self.table = self.add_weight(shape=shape[1:], name="position_embeddings", initializer="random_normal")

    def call(self, x: Any) -> Any:
        """Return the same shape."""
        table = ops.convert_to_tensor(self.table)
        return x + (ops.stop_gradient(table) if self.detach else table)


def tagger(*, mask_zero: bool = False, detach: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12,), dtype="int32")
    x = layers.Embedding(20, 8, mask_zero=mask_zero, name="tokens")(inputs)
    x = Positions(detach, name="positions")(x)
    x = layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, layers.Dense(20, use_bias=False, name="out")(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def values(model: Any, x: Any) -> dict[str, dict[str, Any]]:
    with autotrainer.watch(model, overhead=1) as monitor:
        model.fit(x, x, batch_size=16, verbose=0)
    history = monitor.history
    columns = ("lookups_without_gradient", "frequent_rows", "rows_without_gradient", "rows_of_zero")
    columns += ("padding_between", "position_grad_norm", "equal_indices")  # type: ignore[assignment]
    return {
        info.name: {name: history.layer(name)[:, row] for name in columns} for row, info in enumerate(history.layers)
    }


@pytest.mark.slow
def test_rows_padding_and_positions() -> None:
    x = np.random.default_rng(0).integers(1, 20, (128, 12))
    x[:, 5] = 0
    model = tagger(mask_zero=True)
    table = model.get_layer("tokens").embeddings.numpy()
    table[1:6] = 0
    model.get_layer("tokens").embeddings.assign(table)
    model.get_layer("tokens").trainable = False
    frozen = values(model, x)["tokens"]
    assert frozen["rows_of_zero"][-1] == 5
    assert np.isnan(frozen["lookups_without_gradient"]).all()
    measured = values(tagger(mask_zero=True), x)
    tokens = measured["tokens"]
    assert (tokens["lookups_without_gradient"] == 0).all()
    assert tokens["frequent_rows"][-1] == 19
    assert tokens["rows_without_gradient"][-1] == 0
    assert (tokens["padding_between"] == 1).all()
    assert (measured["positions"]["position_grad_norm"] > 0).all()
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        detached = values(tagger(detach=True), x)
    assert (detached["positions"]["position_grad_norm"] == 0).all()
    assert np.isnan(detached["tokens"]["padding_between"]).all()


def test_a_copy_of_a_table_is_found_in_either_orientation() -> None:
    model = tagger()
    assert not any(watched.info.tie for watched in with_ties(watched_layers(model)))
    model.get_layer("out").kernel.assign(ops.transpose(model.get_layer("tokens").embeddings))
    ties = {w.info.name: (w.info.tied_to, w.info.tie) for w in with_ties(watched_layers(model)) if w.info.tie}
    assert ties == {"out": ("tokens", "equal")}


def test_origin_of_weights() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(64, name="dense"), layers.LayerNormalization(name="norm")]
    )
    new = {w.info.name: w.info.origin for w in with_weight_forms(watched_layers(model))}
    assert new == {"dense": "drawn", "norm": "drawn"}
    model.get_layer("norm").gamma.assign(np.linspace(0.9, 1.1, 64))
    model.get_layer("dense").kernel.assign_add(np.outer(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64)) / 2)
    trained = {w.info.name: w.info.origin for w in with_weight_forms(watched_layers(model))}
    assert trained == {"dense": "trained", "norm": "trained"}


class Forgets(keras.Model):  # type: ignore[misc]
    """A model whose embedding of positions is never called, so that Keras never creates its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = layers.Embedding(20, 8, name="tokens"), layers.Embedding(12, 8, name="positions")
        self.out = layers.Dense(20, name="out")

    def call(self, x: Any) -> Any:
        """Return scores of tokens (rows, time)."""
        return self.out(self.tokens(x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer")
def test_positions_that_are_never_looked_up_have_no_gradient() -> None:
    x = np.random.default_rng(0).integers(1, 20, (160, 12))
    model = Forgets()
    model(x[:1])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with autotrainer.watch(model, overhead=1, probe=True) as monitor:
        model.fit(x, x, batch_size=16, verbose=0)
    row = [layer.name for layer in monitor.history.layers].index("positions")
    assert (monitor.history.layer("position_grad_norm")[:, row] == 0).all()
    assert monitor.history.layers[row].parameters == 96
    assert not model.positions.built
    assert monitor.context.asked["not_probed"] == 0
    assert "ignored_positions" in [finding.problem for finding in monitor.findings]


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
def test_padding_after_the_tokens_makes_a_recurrent_layer_forget_them(masked: bool) -> None:
    keras.utils.set_random_seed(0)
    y = np.arange(64) % 2
    x = np.random.default_rng(0).integers(1, 20, (64, 60)) + 20 * y[:, None]
    x[:, 6:] = 0
    read = [layers.Embedding(40, 8, mask_zero=masked, name="words"), layers.SimpleRNN(16, recurrent_initializer=small)]
    model = keras.Sequential([keras.Input((60,), dtype="int32"), *read, layers.Dense(2)])
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with autotrainer.watch(model, overhead=1) as monitor:
        model.fit(x, y, batch_size=16, epochs=10, verbose=0)
    found = [finding.message for finding in monitor.findings if finding.problem == "vanishing_gradient"]
    assert ["90% of the indices repeat" in message for message in found] == [True] * (not masked), monitor.findings


def small(shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return weights of a state that fades, as those of a gate do."""
    return 0.5 * keras.initializers.Orthogonal(seed=0)(shape, dtype)
