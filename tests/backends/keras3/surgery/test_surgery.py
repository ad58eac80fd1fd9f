from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras.ops import convert_to_numpy as to_numpy

from autotrainer.backends.keras3.data.scaling import InputStatistics, input_statistics
from autotrainer.backends.keras3.model.describe import layers as layer_infos
from autotrainer.backends.keras3.model.layer_kinds import activation_name
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.backends.keras3.model.watched_layers import output_activation
from autotrainer.backends.keras3.surgery.surgery import Surgeon, apply_edits
from autotrainer.edits import (
    AddActivation,
    AddDropout,
    AddInputNoise,
    ClipGradients,
    DropPenalties,
    Edit,
    InsertNormalization,
    LimitDropout,
    Reinitialize,
    ScaleInputs,
    SetBatchSize,
    SetLearningRate,
    SetOutputActivation,
    SetWeightDecay,
    SwapActivation,
    SwapOptimizer,
    ThawLayers,
)
from autotrainer.errors import ConfigError
from autotrainer.records.data import StreamData

X = np.random.default_rng(0).normal(2.0, 3.0, (16, 4)).astype("float32")


def fused() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "sigmoid", name="first"),
            layers.Dense(8, "sigmoid", name="second"),
            layers.Dense(3, "relu", name="out"),
        ]
    )


def separate() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="first"),
            layers.Activation("sigmoid", name="first_act"),
            layers.Dense(8, name="second"),
            layers.LeakyReLU(name="second_act"),
            layers.Dense(3, name="out"),
            layers.ReLU(name="out_act"),
        ]
    )


def branched() -> Any:
    inputs = keras.Input((4,), name="in")
    stem = layers.Dense(8, "sigmoid", name="first")(inputs)
    left = layers.Dense(8, "sigmoid", name="second")(stem)
    joined = layers.Add(name="sum")([stem, left])
    return keras.Model(inputs, layers.Dense(3, "relu", name="out")(joined), name="branched")


def nested() -> Any:
    inputs = keras.Input((4,))
    block = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "sigmoid", name="first"), layers.Dense(8, "sigmoid", name="second")],
        name="block",
    )
    return keras.Model(inputs, layers.Dense(3, "relu", name="out")(block(inputs)))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(8, "sigmoid", name="first")
        self.out = layers.Dense(3, "relu", name="out")

    def call(self, x: Any) -> Any:
        return self.out(self.first(x))


def subclassed() -> Any:
    model = Subclassed()
    model(X)
    return model


GRAPHS = [fused, separate, branched, nested]


def operate(model: Any, *edits: Edit, keep: tuple[str, ...] = (), statistics: Any = None) -> Any:
    surgeon = Surgeon(model, keep, statistics, [(4,)])
    for edit in edits:
        surgeon.apply(edit)
    surgeon.model(X)
    return surgeon.model


def find(model: Any, name: str) -> Any:
    return next(layer for layer in model._flatten_layers() if layer.name == name)


def named(model: Any, *parts: str) -> tuple[str, ...]:
    return tuple(i.name for i in layer_infos(model) if i.name.split("/")[-1] in parts)


def weights_of(model: Any) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense):
            found[layer.name] = to_numpy(layer.kernel)
    return found


@pytest.mark.parametrize("build", [*GRAPHS, subclassed])
def test_a_copy_equals_its_model(build: Callable[[], Any]) -> None:
    model = build()
    copy = copy_model(model)
    if not copy.built:
        copy(X)
        copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(model(X), copy(X))
    assert [layer.name for layer in model.layers] == [layer.name for layer in copy.layers]
    assert {id(w) for w in model.weights}.isdisjoint(id(w) for w in copy.weights)


def test_a_copy_keeps_lambdas_custom_layers_and_frozen_layers() -> None:
    class Twice(layers.Layer):  # neither registered nor importable
        def call(self, x: Any) -> Any:
            return 2 * x

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, activation=lambda v: keras.ops.sin(v), name="frozen", trainable=False),
            layers.Lambda(lambda v: v + 1),
            Twice(),
            layers.Dense(2),
        ]
    )
    copy = copy_model(model)
    np.testing.assert_array_equal(model(X), copy(X))
    assert len(copy.trainable_weights) == len(model.trainable_weights) == 2


@pytest.mark.parametrize("build", [*GRAPHS, subclassed])
@pytest.mark.parametrize("to", ["selu", "relu", "tanh", "thresholded_relu"])
def test_swap_activation(build: Callable[[], Any], to: str) -> None:
    model = build()
    names = named(model, "first")
    before = weights_of(model)
    if build is subclassed and to == "thresholded_relu":
        with pytest.raises(ConfigError, match="replaced"):
            operate(model, SwapActivation(names, to))  # type: ignore[arg-type]
        return
    changed = operate(model, SwapActivation(names, to))  # type: ignore[arg-type]
    info = {i.name.split("/")[-1]: i for i in layer_infos(changed)}
    assert info["first"].activation == to
    after = weights_of(changed)
    assert not np.array_equal(before["first"], after["first"])
    assert np.array_equal(before["out"], after["out"])
    assert not np.any(to_numpy(find(changed, "first").bias))


def test_swap_of_a_separate_activation_by_name_can_keep_weights() -> None:
    model = separate()
    before = weights_of(model)
    changed = operate(model, SwapActivation(("second_act",), "elu", reinitialize=False))
    assert activation_name(find(changed, "second_act")) == "elu"
    assert all(np.array_equal(before[n], v) for n, v in weights_of(changed).items())


def test_initializers_suit_the_activation() -> None:
    wide = keras.Sequential([keras.Input((400,)), layers.Dense(400, "sigmoid", name="a"), layers.Dense(1)])
    surgeon = Surgeon(wide)
    surgeon.apply(SwapActivation(("a",), "selu"))
    assert np.std(to_numpy(wide.layers[0].kernel)) == pytest.approx((1 / 400) ** 0.5, rel=0.05)
    surgeon.apply(SwapActivation(("a",), "relu"))
    assert np.std(to_numpy(wide.layers[0].kernel)) == pytest.approx((2 / 400) ** 0.5, rel=0.05)


def test_recurrent_layers_keep_their_gates() -> None:
    model = keras.Sequential(
        [keras.Input((5, 2)), layers.LSTM(4, activation="relu", name="rnn"), layers.Dense(1, name="out")]
    )
    surgeon = Surgeon(model)
    surgeon.apply(SwapActivation(("rnn",), "tanh"))
    surgeon.model(np.zeros((2, 5, 2), "float32"))
    rnn = surgeon.model.layers[0]
    assert activation_name(rnn.activation) == "tanh"
    assert activation_name(rnn.recurrent_activation) == "sigmoid"


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize("to", ["softmax", "linear", "sigmoid"])
def test_set_output_activation(build: Callable[[], Any], to: str) -> None:
    model = build()
    before = weights_of(model)
    changed = operate(model, SetOutputActivation(to))  # type: ignore[arg-type]
    assert output_activation(changed)[0] == to
    assert all(np.array_equal(before[n], v) for n, v in weights_of(changed).items())
    if to == "softmax":
        np.testing.assert_allclose(np.sum(changed(X), axis=-1), 1, rtol=1e-5)


def test_double_softmax_becomes_one() -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(3, "softmax", name="out")(inputs)
    model = keras.Model(inputs, keras.activations.softmax(hidden))
    changed = operate(model, SetOutputActivation("linear"))
    kernel, bias = changed.get_weights()
    np.testing.assert_allclose(changed(X), X @ kernel + bias, rtol=1e-4, atol=1e-5)


def test_output_without_activation_gets_an_activation_layer() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Add()([layers.Dense(2)(inputs), layers.Dense(2)(inputs)]))
    changed = operate(model, SetOutputActivation("softmax"))
    np.testing.assert_allclose(np.sum(changed(X), axis=-1), 1, rtol=1e-5)
    with pytest.raises(ConfigError, match="no activation"):
        operate(copy_model(model), SetOutputActivation("linear"))


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_normalization_is_inserted_before_the_activation(build: Callable[[], Any], kind: str) -> None:
    model = build()
    before = weights_of(model)
    changed = operate(model, InsertNormalization(named(model, "first", "second"), kind))  # type: ignore[arg-type]
    found = {i.name.split("/")[-1]: i for i in layer_infos(changed)}
    assert {"first_normalization", "second_normalization"} <= set(found)
    assert "out_normalization" not in found
    assert activation_name(find(changed, "first").activation) == "linear"
    order = [i.name.split("/")[-1] for i in layer_infos(changed)]
    act = "first_act" if build is separate else "first_activation"
    assert order.index("first") < order.index("first_normalization") < order.index(act)
    assert all(np.array_equal(before[n], v) for n, v in weights_of(changed).items())
    assert layer_infos(changed)[-1].hidden is False


def test_normalization_is_not_inserted_twice() -> None:
    changed = operate(fused(), InsertNormalization(("first",)))
    with pytest.raises(ConfigError, match="without normalization"):
        operate(changed, InsertNormalization(("first",)))


def test_normalization_of_channels_first_and_time_distributed() -> None:
    model = keras.Sequential(
        [
            keras.Input((3, 8, 8)),
            layers.Conv2D(4, 3, data_format="channels_first", activation="relu", name="conv"),
            layers.Reshape((4, 36)),
            layers.TimeDistributed(layers.Dense(5, "relu", name="inner"), name="each"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    surgeon = Surgeon(model)
    surgeon.apply(InsertNormalization(("conv", "inner")))
    assert surgeon.model.get_layer("conv_normalization").axis == 1
    names = [layer.name for layer in surgeon.model.layers]
    assert names.index("each") + 1 == names.index("inner_normalization")


@pytest.mark.parametrize("build", GRAPHS)
def test_dropout_is_inserted_after_the_activation(build: Callable[[], Any]) -> None:
    model = build()
    reference = np.array(model(X))
    changed = operate(model, AddDropout(named(model, "second"), 0.3))
    [dropout] = [layer for layer in changed._flatten_layers() if isinstance(layer, layers.Dropout)]
    assert dropout.rate == 0.3
    assert dropout.name == ("second_act_dropout" if build is separate else "second_dropout")
    np.testing.assert_allclose(changed(X), reference, rtol=1e-6)
    with pytest.raises(ConfigError, match="output"):
        operate(changed, AddDropout(("out",), 0.3))


@pytest.mark.parametrize("build", [*GRAPHS, subclassed])
def test_scale_inputs(build: Callable[[], Any]) -> None:
    model = build()
    mean, std = tuple(X.mean(0).tolist()), tuple(X.std(0).tolist())
    expected = np.array(model((X - X.mean(0)) / X.std(0)))
    changed = operate(
        model, ScaleInputs(mean, std), statistics=lambda e: InputStatistics((4,), ScaleInputs(mean, std), 1.0)
    )
    np.testing.assert_allclose(changed(X), expected, rtol=1e-4, atol=1e-5)


def test_scale_inputs_globally_and_among_several_inputs() -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    image = keras.Input((4, 4, 1), name="image")
    tail = layers.Concatenate()([layers.Flatten()(layers.Embedding(5, 2)(ids)), layers.Flatten()(image)])
    model = keras.Model({"ids": ids, "image": image}, layers.Dense(1)(tail))
    data = {"ids": np.ones((2, 3), "int32"), "image": np.full((2, 4, 4, 1), 100.0, "float32")}
    expected = np.array(model({"ids": data["ids"], "image": np.full((2, 4, 4, 1), 5.0, "float32")}))
    surgeon = Surgeon(model)
    surgeon.apply(ScaleInputs((50.0,), (10.0,)))
    np.testing.assert_allclose(surgeon.model(data), expected, rtol=1e-4)


SCALING = ScaleInputs(
    (1.0,) * 4, (2.0,) * 4, (0.0, 0.5, 0.0, 0.0), (0.0, 0.1, 0.0, 3.0), constant=(2,), row_numbers=(0,)
)


@pytest.mark.parametrize("build", [*GRAPHS, subclassed])
def test_columns_become_logarithms_or_are_dropped(build: Callable[[], Any]) -> None:
    model = build()
    values = X.copy()
    values[:, 1], values[:, 3] = np.arcsinh((X[:, 1] - 0.5) / 0.1), np.arcsinh(X[:, 3] / 3)
    values = (values - 1) / 2
    values[:, [0, 2]] = 0
    expected = np.array(model(values))
    np.testing.assert_allclose(operate(model, SCALING)(X), expected, rtol=1e-4, atol=1e-5)


def test_scaled_columns_are_saved_with_the_model(tmp_path: Path) -> None:
    changed = operate(fused(), SCALING)
    changed.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(X), changed(X))


@pytest.mark.parametrize("std", [1e-9, 1e25])
@pytest.mark.parametrize("single", [False, True])
def test_very_small_and_large_inputs_are_scaled(std: float, single: bool, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((2,)), layers.Activation("linear"), layers.Dense(2, name="d")])
    model.layers[-1].set_weights([np.eye(2, dtype="float32"), np.zeros(2, "float32")])
    scaling = ScaleInputs((std,), (std,)) if single else ScaleInputs((std, std), (std, std))
    changed, _ = apply_edits((scaling,), model, None)
    x = np.array([[3 * std, -std]], "float32")
    np.testing.assert_allclose(changed(x), [[2, -2]], rtol=1e-5)
    changed.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), changed(x))


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16"])
def test_inputs_of_models_in_half_precision_are_scaled_in_single(policy: str) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential([keras.Input((3,)), layers.Activation("linear")])
        scaling = ScaleInputs((8.0, 1e5, 5.0), (5.0, 1e5, 1.0), (0.0,) * 3, (1e-3, 0.0, 0.0), constant=(2,))
        changed, _ = apply_edits((scaling,), model, None)
        values = changed(np.array([[6e4, -6e4, 1e3]], model.inputs[0].dtype))
        changed, _ = apply_edits((ScaleInputs((0.0,) * 3, (1e3,) * 3),), model, None)
        large = changed(np.array([[6e4, 0, 0]], model.inputs[0].dtype))
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(values.dtype) == policy.removeprefix("mixed_")
    expected = [[(np.arcsinh(6e7) - 8) / 5, -1.6, 0]]
    np.testing.assert_allclose(np.array(values).astype("float32"), expected, rtol=1e-2)
    np.testing.assert_allclose(np.array(large).astype("float32"), [[60, 0, 0]], rtol=1e-2)


def test_nested_targets_say_nothing_about_row_numbers() -> None:
    random = np.random.default_rng(0)
    x = np.stack([np.arange(200.0), random.normal(size=200)], axis=1)
    noise = random.integers(0, 2, 200)
    for targets, expected in ((noise, (0,)), ({"a": noise, "b": x[:, 0]}, ())):
        data = StreamData([(x, targets)])
        assert input_statistics(data, 0, None).scaling.row_numbers == expected


def test_layers_are_thawed_only_where_all_are_frozen() -> None:
    model = fused()
    with pytest.raises(ConfigError, match="never changed"):
        Surgeon(model).check(ThawLayers())
    model.trainable = False
    surgeon = Surgeon(model, ("first",))
    applied = surgeon.apply(ThawLayers())
    assert applied == ThawLayers(tuple(n for n in weights_of(model) if n != "first"))
    flags = {layer.name: bool(layer.trainable_variables) for layer in surgeon.model.layers if layer.weights}
    assert flags == {name: name != "first" for name in flags}
    model.trainable = False
    with pytest.raises(ConfigError, match="keep protects"):
        Surgeon(model, ("*",)).check(ThawLayers())


def regularized() -> Any:
    return keras.Sequential(
        [
            keras.Input((5, 4)),
            layers.Dense(4, kernel_regularizer="l2", name="first"),
            layers.Dropout(0.9, name="drop"),
            layers.Bidirectional(layers.LSTM(3, dropout=0.7, recurrent_regularizer="l1", name="lstm"), name="both"),
            layers.Dense(2, bias_regularizer="l2", activity_regularizer="l2", name="last"),
        ]
    )


@pytest.mark.parametrize("to", ["relu", "thresholded_relu"])
def test_activations_are_added_only_where_there_are_none(to: Any) -> None:
    inner = [layers.Dense(3, name="first"), layers.Dense(3, name="second"), layers.Activation("tanh")]
    model = keras.Sequential([keras.Input((4,)), *inner, layers.Dense(2, name="last")])
    first, second, last = (model.get_layer(name).get_weights() for name in ("first", "second", "last"))
    surgeon = Surgeon(model)
    surgeon.apply(AddActivation(("first", "second", "last"), to))
    hidden = X @ first[0] + first[1]
    hidden = np.where(hidden > (1.0 if to == "thresholded_relu" else 0.0), hidden, 0.0)
    expected = np.tanh(hidden @ second[0] + second[1]) @ last[0] + last[1]
    np.testing.assert_allclose(surgeon.model(X), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="none of last is a hidden layer without activation"):
        surgeon.check(AddActivation(("last",), "relu"))


def test_dropout_rates_are_lowered() -> None:
    surgeon = Surgeon(regularized(), ("drop",))
    applied = surgeon.apply(LimitDropout(0.2))
    assert set(applied.layers) == {"forward_lstm", "backward_lstm"}
    drop, both = (surgeon.model.get_layer(name) for name in ("drop", "both"))
    assert (drop.rate, both.forward_layer.dropout, both.backward_layer.dropout) == (0.9, 0.2, 0.2)
    copy = keras.models.model_from_json(surgeon.model.to_json())
    assert copy.get_layer("both").backward_layer.dropout == 0.2
    with pytest.raises(ConfigError, match="no layer has a dropout rate above"):
        surgeon.check(LimitDropout(0.95))


def test_penalties_are_dropped_and_those_of_activations_kept() -> None:
    model = regularized()
    x = np.ones((2, 5, 4), "float32")
    model(x)
    assert len(model.losses) == 5
    surgeon = Surgeon(model, ("first",))
    assert "last" in surgeon.apply(DropPenalties()).layers
    surgeon.model(x)
    assert len(surgeon.model.losses) == 2, "that of the kept layer, and that of the activations"
    copy = keras.models.model_from_json(surgeon.model.to_json())
    copy(x)
    assert len(copy.losses) == 2
    with pytest.raises(ConfigError, match="keep='first' protects first"):
        surgeon.check(DropPenalties())


def test_layers_that_share_weights_with_kept_ones_stay_frozen() -> None:
    class Transposed(layers.Layer):  # multiplies by the transposed kernel of another layer
        def __init__(self, kernel: Any, name: str) -> None:
            super().__init__(name=name)
            self.kernel, self.built = kernel, True

        def call(self, x: Any) -> Any:
            return keras.ops.matmul(x, keras.ops.transpose(self.kernel))

    first, last = layers.Dense(3, name="first"), layers.Dense(2, name="last")
    first.build((None, 4))
    model = keras.Sequential([keras.Input((4,)), first, Transposed(first.kernel, "second"), last])
    model.trainable = False
    with pytest.raises(ConfigError, match="share their weights"):
        Surgeon(model, ("first", "last")).check(ThawLayers())
    surgeon = Surgeon(model, ("first",))
    assert surgeon.apply(ThawLayers()) == ThawLayers(("last",))
    assert [v.path for v in surgeon.model.trainable_variables] == [v.path for v in last.weights]


def test_indices_are_not_scaled() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)])
    with pytest.raises(ConfigError, match="indices"):
        Surgeon(model).check(ScaleInputs())


@pytest.mark.parametrize("spread", [1.0, 50.0])
def test_input_noise_is_relative_to_the_spread_of_the_input(spread: float) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Activation("linear"), layers.Dense(4, name="d")])
    model.layers[-1].set_weights([np.eye(4, dtype="float32"), np.zeros(4, "float32")])
    statistics = InputStatistics((4,), ScaleInputs((0.0,) * 4, (1.0,) * 4), spread)
    changed = operate(model, AddInputNoise(0.1), statistics=lambda e: statistics)
    zeros = np.zeros((2000, 4), "float32")
    assert np.std(changed(zeros, training=True)) == pytest.approx(0.1 * spread, rel=0.1)
    np.testing.assert_allclose(changed(X), X, rtol=1e-5)


def test_reinitialize_changes_only_the_named_layers() -> None:
    model = fused()
    model.get_layer("second").bias.assign(np.ones(8))
    before = weights_of(model)
    changed = operate(model, Reinitialize(("second",), "orthogonal"))
    after = weights_of(changed)
    np.testing.assert_allclose(after["second"] @ after["second"].T, np.eye(8), atol=1e-5)
    assert not np.any(to_numpy(changed.get_layer("second").bias))
    assert np.array_equal(before["first"], after["first"])


@pytest.mark.parametrize("build", GRAPHS)
@pytest.mark.parametrize("how", ["frozen", "keep"])
def test_frozen_and_kept_layers_never_change(build: Callable[[], Any], how: str) -> None:
    model = build()
    name = named(model, "first")[0]
    if how == "frozen":
        find(model, "first").trainable = False
    keep = ("*first",) if how == "keep" else ()
    edits: list[Edit] = [
        SwapActivation((name,), "relu"),
        Reinitialize((name,), "he_uniform"),
        InsertNormalization((name,)),
        AddDropout((name,), 0.5),
    ]
    for edit in edits:
        with pytest.raises(ConfigError, match="keep=" if how == "keep" else "frozen"):
            Surgeon(model, keep).check(edit)
    both = (*named(model, "first", "second"),)
    before = weights_of(model)["first"]
    changed = operate(model, SwapActivation(both, "relu"), Reinitialize(both, "he_uniform"), keep=keep)
    assert np.array_equal(weights_of(changed)["first"], before)
    assert {i.name.split("/")[-1]: i.activation for i in layer_infos(changed)}["first"] == "sigmoid"


def test_keep_may_name_an_enclosing_model() -> None:
    with pytest.raises(ConfigError, match="keep='block'"):
        Surgeon(nested(), ("block",)).check(Reinitialize(("block/first",), "he_uniform"))


def test_subclassed_models_are_not_restructured() -> None:
    surgeon = Surgeon(subclassed())
    for edit in (InsertNormalization(("first",)), AddDropout(("first",), 0.5), SetOutputActivation("softmax")):
        with pytest.raises(ConfigError, match="is code"):
            surgeon.check(edit)


def test_a_chain_of_edits_survives_saving(tmp_path: Any) -> None:
    changed = operate(
        branched(),
        ScaleInputs((1.0,) * 4, (2.0,) * 4),
        AddInputNoise(0.1),
        InsertNormalization(("first", "second")),
        AddDropout(("second_activation",), 0.2),
        SwapActivation(("first", "second_activation"), "thresholded_relu"),
        SetOutputActivation("softmax"),
    )
    changed.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(changed(X), loaded(X), rtol=1e-6)
    assert layer_infos(loaded) == layer_infos(changed)


@pytest.mark.parametrize("build", [fused, branched])
def test_a_plan_on_a_fresh_model(build: Callable[[], Any]) -> None:
    plan = (
        ScaleInputs((1.0,) * 4, (2.0,) * 4),
        SwapActivation(("first",), "relu"),
        SwapOptimizer("sgd", 0.1, momentum=0.9),
        ClipGradients("norm", 2.0),
        SetBatchSize(8),
    )
    model = build()
    model.compile("adam", "mse")
    out = weights_of(model)["out"]
    changed, optimizer = apply_edits(plan, model, None)
    assert np.array_equal(weights_of(changed)["out"], out)
    assert (type(optimizer).__name__, optimizer.momentum, optimizer.global_clipnorm) == ("SGD", 0.9, 2.0)
    changed.compile(optimizer, "mse")
    changed.fit(X, np.zeros((16, 3)), verbose=0)


def test_plan_uses_the_given_optimizer_or_none() -> None:
    _, optimizer = apply_edits((SetLearningRate(0.5), SetWeightDecay(0.1)), fused(), keras.optimizers.Adam(1e-3))
    assert float(optimizer.learning_rate) == pytest.approx(0.5)
    assert optimizer.weight_decay == 0.1
    assert apply_edits((SetBatchSize(8),), fused(), None)[1] is None
    with pytest.raises(ConfigError, match="not built"):
        apply_edits((ScaleInputs((0.0,), (1.0,)),), keras.Sequential([layers.Dense(1)]), None)
