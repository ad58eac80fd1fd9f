"""Signals beyond norms and activations, each compared with the same number computed separately."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.statistics.layer_table import LayerTable
from autotrainer.backends.keras3.watching.observer import observe
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.sampler import Sampler

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(24, 6).astype("float32")
Y = RANDOM.randint(0, 3, 24)
TOKENS = RANDOM.randint(0, 9, (24, 5))
TOKENS[:, 0] = 1
BATCH = 8


class All(Sampler):
    def due(self, step: int) -> bool:
        self._next = step + 1
        return True


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor([], All(), quiet=True)
    yield made
    assert not made._failed
    made.close()


def watched(model: Any, monitor: Monitor, x: Any = X, **arguments: Any) -> Monitor:
    monitor.attach(observe(model, None, None, monitor))
    model.fit(x, Y, batch_size=BATCH, shuffle=False, verbose=0, **arguments)
    return monitor


def column(monitor: Monitor, name: str, layer: str) -> Any:
    row = [info.name for info in monitor.history.layers].index(layer)
    return monitor.history.layer(name)[:, row]


def mlp() -> Any:
    layers = [kl.Dense(7, "relu", name="a"), kl.Dense(5, name="b"), kl.Activation("tanh", name="tanh")]
    return keras.Sequential([kl.Input((6,)), *layers, kl.Dense(3, name="out")])


def compiled(model: Any, optimizer: Any = None) -> Any:
    model.compile(optimizer or "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


# -- the direction of gradients, and Adam's second moment ---------------------------------------------------------


def gradients_of(model: Any, x: Any, y: Any) -> list[Any]:
    """Return the gradients of a batch, computed separately."""
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x, y, model(x, training=True))
    return [tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, model.trainable_weights)]


def expected_ratios(gradients: list[list[Any]], beta: float, epsilon: float, places: slice) -> list[float]:
    moment, ratios = [np.zeros_like(g) for g in gradients[0]], []
    for step, found in enumerate(gradients, 1):
        moment = [beta * v + (1 - beta) * g**2 for v, g in zip(moment, found, strict=True)]
        parts = [g**2 / np.maximum(v / (1 - beta**step), epsilon**2) for v, g in zip(moment, found, strict=True)]
        ratios.append(float(np.sqrt(np.concatenate([p.ravel() for p in parts[places]]).mean())))
    return ratios


def clipped(gradients: list[Any], options: dict[str, Any]) -> list[Any]:
    if "clipnorm" in options:
        return [g * min(1, options["clipnorm"] / np.linalg.norm(g)) for g in gradients]
    if "global_clipnorm" in options:
        total = np.sqrt(sum((g**2).sum() for g in gradients))
        return [g * min(1, options["global_clipnorm"] / total) for g in gradients]
    return [np.clip(g, -options["clipvalue"], options["clipvalue"]) for g in gradients] if options else gradients


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (keras.optimizers.AdamW, {}),
        (keras.optimizers.Nadam, {"clipnorm": 0.1}),
        (keras.optimizers.Adam, {"global_clipnorm": 0.1}),
        (keras.optimizers.Adam, {"clipvalue": 0.02}),
    ],
)
def test_gradient_cosine_and_second_moments(monitor: Monitor, kind: Any, options: dict[str, Any]) -> None:
    keras.utils.set_random_seed(0)
    model, twin = (compiled(mlp(), kind(0.03, beta_2=0.9, **options)) for _ in range(2))
    twin.set_weights(model.get_weights())
    found = []
    for start in range(0, 24, BATCH):
        found.append(gradients_of(twin, X[start : start + BATCH], Y[start : start + BATCH]))
        twin.optimizer.apply(list(map(tf.convert_to_tensor, found[-1])), twin.trainable_variables)
    watched(model, monitor)
    flat = [np.concatenate([g.ravel() for g in step]) for step in found]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(flat[1:], flat, strict=False)]
    np.testing.assert_allclose(monitor.history.scalar("gradient_cosine"), [np.nan, *cosines], rtol=1e-3, atol=1e-5)
    as_used = [clipped(step, options) for step in found]
    for name, places in (("a", slice(0, 2)), ("b", slice(2, 4)), ("out", slice(4, 6))):
        expected = expected_ratios(as_used, 0.9, model.optimizer.epsilon, places)
        np.testing.assert_allclose(column(monitor, "second_moment_ratio", name), expected, rtol=1e-3)
    assert np.isnan(column(monitor, "second_moment_ratio", "tanh")).all()
    pairs = [(np.concatenate([g.ravel() for g in step]), g) for step, g in zip(as_used, flat, strict=True)]
    factors = [after @ before / (before @ before) for after, before in pairs] if options else [np.nan] * len(flat)
    np.testing.assert_allclose(monitor.history.scalar("gradient_factor"), factors, rtol=1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        keras.optimizers.SGD(momentum=0.9),
        keras.optimizers.Adamax(),
        keras.optimizers.RMSprop(),
        keras.optimizers.Adam(gradient_accumulation_steps=2),
    ],
)
def test_optimizers_without_second_moment_have_no_ratio(monitor: Monitor, optimizer: Any) -> None:
    watched(compiled(mlp(), optimizer), monitor)
    assert np.isnan(monitor.history.layer("second_moment_ratio")).all()
    assert np.isfinite(monitor.history.scalar("gradient_cosine")[1:]).all()


def test_sampled_entries_of_sparse_gradients() -> None:
    dense, sparse = (
        LayerTable(watched_layers(keras.Sequential([kl.Input((1,)), kl.Embedding(50, 3)])), StatisticGuard(pytest.fail))
        for _ in "ab"
    )
    for indices in ([4, 7, 4], [7, 49, 0]):
        values = RANDOM.randn(3, 3).astype("float32")
        whole = np.zeros((50, 3), np.float32)
        np.add.at(whole, indices, values)
        one = dense.table({"gradient:0:0": whole})
        other = sparse.table({"gradient:0:0:values": values, "gradient:0:0:indices": np.array(indices)})
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert np.isfinite(dense.gradient_cosine)
    assert dense.gradient_cosine == pytest.approx(sparse.gradient_cosine)


# -- activations and attention ------------------------------------------------------------------------------------


def test_dormant_units_and_features(monitor: Monitor) -> None:
    model = compiled(mlp(), keras.optimizers.SGD(0.0))
    kernel, _ = model.get_layer("a").get_weights()
    model.get_layer("a").set_weights([kernel, np.array([3, 3, 3, -100, -100, 3, 3])])
    watched(model, monitor)
    np.testing.assert_allclose(column(monitor, "dormant", "a"), 2 / 7)
    np.testing.assert_allclose(column(monitor, "dormant", "tanh"), 0)
    for name in ("b", "out"):  # one has a separate activation, and outputs are never dormant
        assert np.isnan(column(monitor, "dormant", name)).all()
    for step, rank in enumerate(monitor.history.scalar("feature_rank")):
        hidden = keras.Model(model.inputs[0], model.get_layer("tanh").output)(
            X[BATCH * step : BATCH * (step + 1)]
        ).numpy()
        shares = np.linalg.svd(hidden - hidden.mean(axis=0), compute_uv=False)
        shares = shares / shares.sum()
        assert rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()) / 5, rel=1e-3)


def test_gated_recurrent_layers_have_no_dormant_units(monitor: Monitor) -> None:
    layers = [kl.SimpleRNN(3, return_sequences=True, name="plain"), kl.GRU(3, name="gated"), kl.Dense(3, name="out")]
    watched(compiled(keras.Sequential([kl.Input((6, 1)), *layers])), monitor, X[..., None])
    assert np.isfinite(column(monitor, "dormant", "plain")).all()
    assert np.isnan(column(monitor, "dormant", "gated")).all()


def transformer(attention: Any, *, masked: bool) -> Any:
    inputs = kl.Input((5,), dtype="int32")
    hidden = kl.Embedding(9, 8, mask_zero=masked, name="embedding")(inputs)
    options = {"use_causal_mask": True} if isinstance(attention, kl.MultiHeadAttention) else {}
    if isinstance(attention, kl.Attention):
        hidden = attention([hidden, hidden])
    else:
        hidden = attention(hidden, hidden, **options)
    out = kl.Dense(3)(kl.GlobalAveragePooling1D()(kl.LayerNormalization()(hidden)))
    return compiled(keras.Model(inputs, out), keras.optimizers.SGD(0.0))


def weights_of(model: Any, tokens: Any) -> Any:
    """Return the attention weights of a batch, as the layer returns them."""
    hidden, layer = model.get_layer("embedding")(tokens), model.get_layer("attention")
    if isinstance(layer, kl.Attention):
        return layer([hidden, hidden], return_attention_scores=True)[1].numpy()[:, None]
    options = {"use_causal_mask": True} if isinstance(layer, kl.MultiHeadAttention) else {}
    return layer(hidden, hidden, return_attention_scores=True, **options)[1].numpy()


ATTENTION = {
    "heads, none of which looks ahead": lambda: kl.MultiHeadAttention(2, 4, name="attention"),
    "groups of heads": lambda: kl.GroupQueryAttention(4, 4, 2, name="attention"),
    "one head without weights": lambda: kl.Attention(name="attention"),
}


@pytest.mark.parametrize(
    ("kind", "masked"),
    [(kind, masked) for kind in ATTENTION for masked in (False, True) if not masked or "groups" not in kind],
)
def test_attention_entropy_is_that_of_its_weights(monitor: Monitor, kind: str, masked: bool) -> None:
    layer = ATTENTION[kind]()
    model = transformer(layer, masked=masked)
    watched(model, monitor, TOKENS)
    entropies, logits = (column(monitor, f"attention_{name}", "attention") for name in ("entropy", "max_logit"))
    for step in range(3):
        tokens = TOKENS[BATCH * step : BATCH * (step + 1)]
        weights, known = weights_of(model, tokens), (tokens != 0) | (not masked)
        counts = np.broadcast_to(known[:, None, None], weights.shape)
        if not isinstance(layer, kl.Attention):  # it masks queries, not keys
            counts = counts & known[:, None, :, None]
        if isinstance(layer, kl.MultiHeadAttention):
            counts = counts & np.tri(5, dtype=bool)
        keys = counts.sum(axis=-1)
        terms = np.where(counts, weights * np.log(np.maximum(weights, 1e-30)), 0).sum(axis=-1)
        assert entropies[step] == pytest.approx((-terms[keys > 1] / np.log(keys[keys > 1])).mean(), rel=1e-3)
    assert (logits > 0).all()


def test_large_logits_give_low_entropy(monitor: Monitor) -> None:
    model = transformer(kl.MultiHeadAttention(2, 4, name="attention"), masked=False)
    layer = model.get_layer("attention")
    layer.set_weights([w * 40 for w in layer.get_weights()])
    watched(model, monitor, TOKENS)
    query, key = (dense(model.get_layer("embedding")(TOKENS[:BATCH])) for dense in (layer.query_dense, layer.key_dense))
    logits = np.einsum("bqhd,bkhd->bhqk", query, key) / 2
    seen = np.abs(np.where(np.tri(5, dtype=bool), logits, 0)).max()
    np.testing.assert_allclose(column(monitor, "attention_max_logit", "attention")[0], seen, rtol=1e-4)
    assert column(monitor, "attention_entropy", "attention")[0] < 0.9


# -- modes, schedules, owners -------------------------------------------------------------------------------------


class InferenceModeStep(keras.Model):  # type: ignore[misc]
    """A training step that does not pass ``training=True``."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.drop, self.out = kl.Dense(5, "relu", name="hidden"), kl.Dropout(0.5), kl.Dense(3, name="out")

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.hidden(inputs), training=training))

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x))
        learns = self.out.trainable_weights  # not the hidden layer
        self.optimizer.apply_gradients(zip(tape.gradient(loss, learns), learns, strict=True))
        return {"loss": loss}


def dropping() -> Any:
    return keras.Sequential([kl.Input((6,)), kl.Dense(5, "relu"), kl.Dropout(0.5), kl.Dense(3)])


def fine_tuning() -> Any:
    """As in Keras' guide: the base stays in inference mode while the model is trained."""
    base = keras.Sequential([kl.Input((6,)), kl.Dense(5), kl.BatchNormalization(), kl.ReLU()])
    inputs = kl.Input((6,))
    return keras.Model(inputs, kl.Dense(3)(base(inputs, training=False)))


def idle() -> Any:
    """A dropout layer with rate 0."""
    return keras.Sequential([kl.Input((6,)), kl.Dense(5, "relu"), kl.Dropout(0.0), kl.Dense(3)])


def frozen() -> Any:
    model = dropping()
    for layer in model.layers[:-1]:
        layer.trainable = False
    return model


@pytest.mark.parametrize(
    ("build", "mode"),
    [(dropping, 1), (fine_tuning, 1), (InferenceModeStep, 0), (mlp, np.nan), (frozen, np.nan), (idle, np.nan)],
)
def test_the_mode_of_the_training_step(monitor: Monitor, build: Any, mode: float) -> None:
    watched(compiled(build()), monitor)
    np.testing.assert_array_equal(monitor.history.scalar("training_mode"), mode)
    assert monitor.context.dropout == (0.5 if build in (dropping, frozen, InferenceModeStep) else 0)


def test_weights_that_no_optimizer_updates_are_unowned(monitor: Monitor) -> None:
    watched(compiled(InferenceModeStep()), monitor)
    assert {info.name: info.unowned for info in monitor.history.layers} == {"hidden": 35, "out": 0}


def test_no_weight_is_unowned_in_the_default_step(monitor: Monitor) -> None:
    watched(compiled(mlp()), monitor)
    assert not any(info.unowned for info in monitor.history.layers)


@pytest.mark.parametrize(
    ("rate", "callbacks", "schedule"),
    [
        (0.1, None, ""),
        (0.1, [keras.callbacks.EarlyStopping("loss")], ""),
        (0.1, [keras.callbacks.ReduceLROnPlateau("loss")], "ReduceLROnPlateau"),
        (0.1, keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch)), "LearningRateScheduler"),
        (
            0.1,
            keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr if epoch < 9 else 0),
            "LearningRateScheduler",
        ),
        (0.1, keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2), "LearningRateScheduler"),
        (0.1, keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), ""),
        (0.1, keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr), ""),
        (keras.optimizers.schedules.CosineDecay(0.1, 10), None, "CosineDecay"),
    ],
)
def test_schedules_of_the_learning_rate(monitor: Monitor, rate: Any, callbacks: Any, schedule: str) -> None:
    watched(compiled(mlp(), keras.optimizers.SGD(rate)), monitor, callbacks=callbacks)
    optimizer = monitor.context.optimizer
    assert (optimizer.scheduled, optimizer.schedule) == (bool(schedule), schedule)


# -- needed columns only ------------------------------------------------------------------------------------------


def test_only_needed_tensors_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[frozenset[str], set[str]] = {}
    for needs in (frozenset({"loss"}), frozenset({"feature_rank"}), frozenset({"attention_entropy"})):
        made = Monitor([], All(), quiet=True)
        monkeypatch.setattr(Monitor, "needs", needs)
        own = LayerTable.table

        def table(self: Any, found: Any, needs: Any = needs, own: Any = own, **options: Any) -> Any:
            seen[needs] = {name.partition(":")[0] for name in found}
            return own(self, found, **options)

        monkeypatch.setattr(LayerTable, "table", table)
        watched(transformer(kl.MultiHeadAttention(2, 4), masked=False), made, TOKENS)
        monkeypatch.setattr(LayerTable, "table", own)
        made.close()
    less, features, attention = seen.values()
    assert features - less == {"features"}
    assert attention - less == {"attention"}
