"""Probes of real Keras models: healthy ones are quiet, each fault is named, and nothing is changed."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import autotrainer
from autotrainer.adapter.probed_model import NotProbedError
from autotrainer.backends.keras3.probing.probed_model import probed_inputs
from autotrainer.diagnostics.probes import run_probes

CODES = ["AT209", "AT210", "AT211", "AT212", "AT505"]
VOCABULARY, POSITIONS = 11, 9
RNG = np.random.default_rng(0)
SEQUENCES = RNG.integers(1, VOCABULARY, (24, POSITIONS + 1))
TOKENS, NEXT = SEQUENCES[:, :-1], SEQUENCES[:, 1:]
PADDED = TOKENS * (np.arange(POSITIONS) < RNG.integers(4, 8, (24, 1)))
LABELS = RNG.integers(0, 2, 24)
COLUMNS = np.float32([1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
ROWS = RNG.normal(size=(24, 6)).astype("float32")


class Places(layers.Layer):
    def __init__(self, initializer: str = "random_normal", **options: Any) -> None:
        super().__init__(**options)
        self.initializer, self.supports_masking = initializer, True

    def build(self, shape: Any) -> None:
        self.places = self.add_weight(shape=(POSITIONS, shape[-1]), initializer=self.initializer)

    def call(self, x: Any) -> Any:
        return x + self.places[: ops.shape(x)[1]]

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "initializer": self.initializer}


def encoder(units: int = 2, *, causal: bool = False, places: str = "random_normal", pools: bool = True,
            pads: bool = False) -> Any:  # fmt: skip
    tokens = keras.Input((None,), dtype="int32")
    hidden = layers.Embedding(VOCABULARY, 8, mask_zero=pads)(tokens)
    hidden = Places(places)(hidden) if places else hidden
    hidden = layers.MultiHeadAttention(2, 4)(hidden, hidden, use_causal_mask=causal)
    hidden = layers.Dense(8, "relu")(layers.LayerNormalization()(hidden))
    return keras.Model(tokens, layers.Dense(units)(layers.GlobalAveragePooling1D()(hidden) if pools else hidden))


def table(*more: Any) -> Any:
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), *more, layers.Dense(2)])


class AlwaysDrops(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.drop = layers.Dense(8, "relu"), layers.Dense(2), layers.Dropout(0.3)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.last(self.drop(self.first(x), training=True))


class Sampling(layers.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        self.add_loss(ops.mean(ops.square(x)))
        return x + keras.random.normal(ops.shape(x), seed=self.generator)


def adapted() -> Any:
    layer = layers.Normalization()
    layer.adapt(ROWS * COLUMNS)
    return keras.Sequential([keras.Input((6,)), layer, layers.Dense(8, "tanh"), layers.Dense(2)])


def called(model: Any) -> Any:
    model(ROWS)
    return model


HEALTHY = [
    pytest.param(lambda: encoder(VOCABULARY, causal=True, pools=False), TOKENS, NEXT, id="decoder"),
    pytest.param(lambda: encoder(pads=True), PADDED, LABELS, id="encoder with a padding mask"),
    pytest.param(lambda: encoder(3, pools=False), TOKENS, TOKENS % 3, id="tagger"),
    pytest.param(lambda: encoder(places="zeros"), TOKENS, LABELS, id="positions that start at zero"),
    pytest.param(
        lambda: keras.Sequential([layers.Embedding(VOCABULARY, 8), layers.LSTM(8), layers.Dense(2)]),
        TOKENS, LABELS, id="LSTM",
    ),
    pytest.param(lambda: table(layers.BatchNormalization(), layers.Dropout(0.5)), ROWS, LABELS, id="batch norm"),
    pytest.param(lambda: table(layers.GaussianNoise(0.5)), ROWS, LABELS, id="noise in training"),
    pytest.param(adapted, ROWS * COLUMNS, LABELS, id="columns of other scales, adapted to"),
]  # fmt: skip
FAULTY = [
    pytest.param(lambda: encoder(VOCABULARY, pools=False), TOKENS, NEXT, "AT209", "error", id="no causal mask"),
    pytest.param(encoder, PADDED, LABELS, "AT209", "warning", id="padding not masked"),
    pytest.param(lambda: encoder(places=""), TOKENS, LABELS, "AT210", "warning", id="no positions"),
    pytest.param(lambda: table(layers.Softmax(0)), ROWS, LABELS, "AT211", "warning", id="softmax over the batch"),
    pytest.param(lambda: called(AlwaysDrops()), ROWS, LABELS, "AT212", "warning", id="dropout always on"),
    pytest.param(lambda: table(Sampling()), ROWS, LABELS, "AT212", "info", id="a sampled code with an added loss"),
    pytest.param(
        lambda: keras.Sequential([keras.Input((6,)), layers.Lambda(lambda x: x[:, :4]), layers.Dense(2)]),
        ROWS, LABELS, "AT505", "warning", id="columns cut off",
    ),
]  # fmt: skip


def made(make: Callable[[], Any]) -> Any:
    keras.utils.set_random_seed(0)
    return make()


@pytest.mark.slow
@pytest.mark.parametrize(("make", "x", "y"), HEALTHY)
def test_healthy_models_are_quiet(make: Callable[[], Any], x: Any, y: Any) -> None:
    assert autotrainer.check(made(make), (x, y), loss="mse", select=CODES) == []


@pytest.mark.slow
@pytest.mark.parametrize(("make", "x", "y", "code", "severity"), FAULTY)
def test_faults_are_named(make: Callable[[], Any], x: Any, y: Any, code: str, severity: str) -> None:
    found = autotrainer.check(made(make), (x, y), loss="mse", select=CODES)
    assert [(f.code, str(f.severity)) for f in found] == [(code, severity)]


def test_an_input_that_is_not_used_is_named() -> None:
    age, place = keras.Input((6,), name="age"), keras.Input((6,), name="place")
    model = keras.Model({"age": age, "place": place}, layers.Dense(2)(age) + 0 * layers.Dense(2)(place))
    (finding,) = autotrainer.check(model, ({"age": ROWS, "place": ROWS[::-1].copy()}, LABELS), select=CODES)
    assert "'place'" in finding.message


@pytest.mark.slow
def test_watch_probes_a_copy_once_and_changes_nothing() -> None:
    def train(watched: bool) -> tuple[list[Any], Any]:
        model = made(lambda: encoder(VOCABULARY, pools=False))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        monitor = autotrainer.watch(model, probe=True, select=CODES) if watched else None
        model.fit(TOKENS, NEXT, batch_size=8, epochs=1, verbose=0)
        if monitor is not None:
            monitor.close()
        return model.get_weights(), monitor

    watched, monitor = train(watched=True)
    plain, _ = train(watched=False)
    assert all(np.array_equal(a, b) for a, b in zip(watched, plain, strict=True))
    assert [f.code for f in monitor.findings] == ["AT209"]
    assert "probes at the start" in " ".join(str(monitor.report()).split())


def test_the_model_stays_as_it_is() -> None:
    model = made(lambda: table(layers.BatchNormalization(), layers.Dropout(0.5)))
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    probed = probed_inputs(model, ROWS, LABELS)
    run_probes(lambda: probed)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    reference = probed.outputs(probed.fields)[0]
    with probed.perturbed() as moved:
        assert moved
        assert not np.array_equal(probed.outputs(probed.fields)[0], reference)
    np.testing.assert_array_equal(probed.outputs(probed.fields)[0], reference)


class Closed(keras.Model):
    """A model that can't be copied: it does not keep the arguments of its constructor. Its call changes attributes."""

    def __init__(self, size: int, units: int) -> None:
        super().__init__()
        self.tokens, self.places = layers.Embedding(size, units), Places()
        self.attention = layers.MultiHeadAttention(2, units // 2)
        self.norm, self.head = layers.BatchNormalization(), layers.Dense(size)
        self.drop = layers.Dropout(0.2)
        self.calls, self.seen, self.held, self.recent = 0, [], {}, OrderedDict(first=0)
        self.nested = ([{"last": 0, "past": deque([0], maxlen=2)}], {"sets": [{0}]})
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")

    def call(self, x: Any, training: bool = False) -> Any:
        self.calls += 1
        self.seen.append(self.calls)
        self.held["last"] = self.recent[self.calls] = self.latest = self.calls
        self.recent.move_to_end("first")
        record = self.nested[0][0]
        record["last"] = self.calls
        record["past"].append(self.calls)
        self.nested[1]["sets"][0].add(self.calls)
        self.count.assign_add(1.0)
        hidden = self.places(self.tokens(x))
        hidden = self.drop(self.norm(hidden + self.attention(hidden, hidden), training=training), training=training)
        return self.head(hidden)


def closed() -> Any:
    model = Closed(VOCABULARY, 8)
    model(TOKENS[:2])
    return model


def test_a_model_that_cannot_be_copied_is_probed_and_stays_as_it_is() -> None:
    model = made(closed)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in model.variables]
    attributes, seen, held, recent = dict(vars(model)), list(model.seen), dict(model.held), list(model.recent.items())
    nested = repr(model.nested)
    probed = probed_inputs(model, TOKENS, NEXT)
    facts = run_probes(lambda: probed).facts
    assert facts["not_probed"] == facts["failed_probes"] == 0
    assert facts["predicts_next"] == 1
    assert facts["later_effect"] > facts["later_noise"]  # nothing masks later tokens
    assert facts["evaluation_state"] == 0  # its counter does not reach the outputs
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert vars(model).keys() == attributes.keys()
    assert all(vars(model)[name] is value for name, value in attributes.items())
    assert (model.seen, model.held, list(model.recent.items())) == (seen, held, recent)
    assert repr(model.nested) == nested
    reference = probed.outputs(probed.fields)[0]
    with probed.perturbed() as moved:
        assert moved
        assert not np.array_equal(probed.outputs(probed.fields)[0], reference)
    np.testing.assert_array_equal(probed.outputs(probed.fields)[0], reference)
    np.testing.assert_array_equal(probed.outputs(probed.fields)[0], keras.ops.convert_to_numpy(model(TOKENS)))


def test_a_model_that_cannot_be_copied_or_called_is_not_probed() -> None:
    with pytest.raises(NotProbedError, match="can't be copied"):
        probed_inputs(Closed(VOCABULARY, 8), TOKENS, NEXT)


def test_as_many_scores_as_positions_are_still_by_position() -> None:
    model = made(lambda: encoder(POSITIONS, pools=False))
    targets = np.minimum(NEXT, POSITIONS - 1)
    tokens = np.minimum(TOKENS, POSITIONS - 1)
    facts = run_probes(lambda: probed_inputs(model, tokens, targets)).facts
    assert facts["later_effect"] > facts["later_noise"]
