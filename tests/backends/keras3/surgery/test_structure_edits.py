"""Edits of the structure of Keras models: widths, residual connections, the output layer, attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from autotrainer.backends.keras3.layers.inserted import CosineAttention, CosineGroupedAttention, Residual
from autotrainer.backends.keras3.model.copying import copy_layer
from autotrainer.backends.keras3.model.describe import layers as layer_infos
from autotrainer.backends.keras3.model.operations import count_operations
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.backends.keras3.statistics.attention import noted_method
from autotrainer.backends.keras3.surgery.surgery import Surgeon, apply_edits
from autotrainer.edits import (
    AddDropout,
    AddResidual,
    ClipAttention,
    Edit,
    InsertNormalization,
    ResizeLayers,
    ScaleOutputLayer,
    SwapActivation,
)
from autotrainer.errors import ConfigError

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")


def fused() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, "sigmoid", name="first"),
            layers.Dense(8, "sigmoid", name="second"),
            layers.Dense(3, "softmax", name="out"),
        ]
    )


def added() -> Any:
    """Built with `add`, with separate activation layers."""
    model = keras.Sequential([keras.Input((4,))])
    for name in ("first", "second"):
        model.add(layers.Dense(8, name=name))
        model.add(layers.Activation("sigmoid", name=f"{name}_act"))
    model.add(layers.Dense(3, name="out"))
    return model


def leaky() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="first"),
            layers.LeakyReLU(name="first_act"),
            layers.Dense(8, name="second"),
            layers.LeakyReLU(name="second_act"),
            layers.Dropout(0.1),
            layers.Dense(3, name="out"),
        ]
    )


def called() -> Any:
    """Activations called as functions."""
    inputs = keras.Input((4,))
    first = keras.ops.relu(layers.Dense(8, name="first")(inputs))
    second = keras.ops.relu(layers.Dense(8, name="second")(first))
    return keras.Model(inputs, layers.Dense(3, name="out")(second))


def branched() -> Any:
    inputs = keras.Input((4,))
    stem = layers.Dense(8, "sigmoid", name="first")(inputs)
    left = layers.Dense(8, "sigmoid", name="second")(stem)
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Add()([stem, left])))


def nested() -> Any:
    inputs = keras.Input((4,))
    block = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, "sigmoid", name="first"), layers.Dense(8, "sigmoid", name="second")],
        name="block",
    )
    return keras.Model(inputs, layers.Dense(3, name="out")(block(inputs)))


def images() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Reshape((2, 2, 1)),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            layers.BatchNormalization(),
            layers.Conv2D(8, 3, padding="same", activation=lambda v: keras.ops.relu(v), name="second"),
            layers.Flatten(),
            layers.Dense(3, name="out"),
        ]
    )


def sequences() -> Any:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Reshape((4, 1)),
            layers.TimeDistributed(layers.Dense(6, "relu", name="first"), name="each"),
            layers.Bidirectional(layers.LSTM(8, name="second"), name="both"),
            layers.Dense(3, name="out"),
        ]
    )


def tied() -> Any:
    """The first layer is as wide as the input that it is added to."""
    inputs = keras.Input((4,))
    first = layers.Dense(4, "relu", name="first")(inputs)
    second = layers.Dense(8, "relu", name="second")(layers.Add()([inputs, first]))
    return keras.Model(inputs, layers.Dense(3, name="out")(second))


def two_inputs() -> Any:
    one, other = keras.Input((4,)), keras.Input((4,))
    parts = [layers.Dense(8, "relu", name=name)(x) for name, x in (("first", one), ("second", other))]
    return keras.Model([one, other], layers.Dense(3, name="out")(layers.Concatenate()(parts)))


class Block(layers.Layer):
    """Attention and a dense layer in user code."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(2, 4, name="attention")
        self.dense = layers.Dense(8, "relu", name="dense")

    def call(self, x: Any) -> Any:
        return x + self.dense(x + self.attention(x, x, use_causal_mask=True))


def in_block() -> Any:
    inputs = keras.Input((4,))
    x = Block(name="block")(layers.Dense(8, name="first")(layers.Reshape((4, 1))(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))


def attending() -> Any:
    inputs = keras.Input((4,))
    x = layers.Dense(8, name="first")(layers.Reshape((4, 1))(inputs))
    x = layers.MultiHeadAttention(2, 4, dropout=0.1, name="several")(x, x)
    x = layers.GroupQueryAttention(4, 2, 1, name="grouped")(x, x)
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.out = layers.Dense(8, name="first"), Block(name="block"), layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.out(keras.ops.mean(self.block(self.first(x[..., None])), 1))


def subclassed() -> Any:
    model = Subclassed()
    model(X)
    return model


def data_of(model: Any) -> Any:
    return [X, X] if len(getattr(model, "inputs", [0])) == 2 else X


def operate(model: Any, *edits: Edit, keep: tuple[str, ...] = ()) -> tuple[Any, list[Edit]]:
    """Apply edits to a copy, as a training does."""
    surgeon = Surgeon(copy_model(model), keep, None, [(4,)])
    done = []
    for edit in edits:
        surgeon.check(edit)
        done.append(surgeon.apply(edit))
    surgeon.model(data_of(surgeon.model))
    return surgeon.model, done


def trained(model: Any) -> Any:
    model.compile("adam", "mse")
    model.fit(data_of(model), np.zeros((16, 3)), verbose=0)
    return model


def infos(model: Any) -> dict[str, Any]:
    return {info.name.split("/")[-1]: info for info in layer_infos(model)}


def named(model: Any, *parts: str) -> tuple[str, ...]:
    return tuple(i.name for i in layer_infos(model) if i.name.split("/")[-1] in parts)


# -- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [fused, added, leaky, called, branched, nested, images, two_inputs])
def test_hidden_layers_get_wider(build: Callable[[], Any]) -> None:
    model = build()
    names = named(model, "first", "second")
    before = count_operations(model, X)
    changed, (done,) = operate(model, ResizeLayers(names, (16,) * len(names)))
    assert done == ResizeLayers(names, (16,) * len(names))
    found = infos(trained(changed))
    assert (found["first"].units, found["second"].units) == (16, 16)
    assert changed.output_shape == (None, 3)
    assert infos(model)["first"].units == 8, "the original model does not change"
    assert count_operations(changed, X) > 1.5 * before, "more work is counted"


def test_bidirectional_and_time_distributed_layers_get_wider() -> None:
    model = sequences()
    names = named(model, "first", "forward_second", "backward_second")
    changed, _ = operate(model, ResizeLayers(names, (12, 10, 10)))
    found = infos(trained(changed))
    assert [found[name].units for name in ("first", "forward_second", "backward_second")] == [12, 10, 10]


def test_new_weights_suit_the_activation_and_others_are_kept() -> None:
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="kept"),
            *(layers.Dense(8, "relu", name=name) for name in "ab"),
            layers.Dense(1),
        ]
    )
    changed, _ = operate(model, ResizeLayers(("a", "b"), (400, 400)))
    assert np.std(changed.get_layer("b").get_weights()[0]) == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    for old, new in zip(model.get_layer("kept").get_weights(), changed.get_layer("kept").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_tied_widths_are_not_changed() -> None:
    _, (done,) = operate(tied(), ResizeLayers(("first", "second"), (16, 16)))
    assert done == ResizeLayers(("second",), (16,))


@pytest.mark.parametrize(
    ("build", "names", "keep", "says"),
    [
        (tied, ("first",), (), "widths are tied"),
        (fused, ("out",), (), "is not a hidden dense"),
        (fused, ("first",), ("second",), "would have to change"),
        (fused, ("first",), ("first",), "keep='first'"),
        (in_block, ("block/dense",), (), "inside Block"),
        (subclassed, ("first",), (), "is code"),
    ],
)
def test_refused_widths_have_a_reason(build: Any, names: Any, keep: Any, says: str) -> None:
    model = build()
    with pytest.raises(ConfigError, match=says):
        Surgeon(model, keep).check(ResizeLayers(names, (16,) * len(names)))


def test_widths_before_frozen_layers_are_refused() -> None:
    model = fused()
    model.get_layer("second").trainable = False
    with pytest.raises(ConfigError, match="frozen"):
        Surgeon(model).check(ResizeLayers(("first", "second"), (16, 16)))


# -- residual connections ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [fused, added, leaky, called, branched, nested, images])
def test_residual_gate_starts_at_zero(build: Callable[[], Any], tmp_path: Any) -> None:
    model = build()
    names = named(model, "first", "second")
    changed, (done,) = operate(model, AddResidual(names))
    assert [name.split("/")[-1] for name in done.layers] == ["second"], (
        "the first has another number of outputs than inputs"
    )
    [residual] = [layer for layer in changed._flatten_layers() if isinstance(layer, Residual)]
    inner = np.random.default_rng(1).normal(size=(3, *residual._inbound_nodes[0].input_tensors[0].shape[1:]))
    np.testing.assert_array_equal(residual(inner.astype("float32")), inner.astype("float32"))
    assert infos(changed)["second"].activation == infos(model)["second"].activation
    trained(changed)
    assert float(residual.gate) != 0
    again = copy_model(changed)
    np.testing.assert_allclose(again(X), changed(X), rtol=1e-6)
    if build is not images:  # a model with a lambda can't be loaded
        changed.save(tmp_path / "m.keras")
        np.testing.assert_allclose(keras.models.load_model(tmp_path / "m.keras")(X), changed(X), rtol=1e-6)


def test_other_edits_apply_inside_a_residual_or_keep_it() -> None:
    edits = (
        AddResidual(("second",)),
        SwapActivation(("first", "second"), "relu"),
        InsertNormalization(("first", "second")),
        AddDropout(("first", "second"), 0.1),
        ResizeLayers(("first", "second"), (8, 8)),
    )
    changed, done = operate(fused(), *edits)
    names = [layer.name for layer in changed.layers]
    put_in = ["first_normalization", "first_activation", "first_activation_dropout"]
    assert names == ["first", *put_in, "second_residual", "out"]
    residual = changed.get_layer("second_residual")
    assert residual.layer.activation is keras.activations.relu
    assert done[-1].layers == ("first",)
    for to in ("tanh", "thresholded_relu"):
        changed, _ = operate(leaky(), AddResidual(("second",)), SwapActivation(("second",), to))  # type: ignore[arg-type]
        assert infos(changed)["second"].activation == to
        assert infos(changed)["second_act_moved"].activation == "linear"


@pytest.mark.parametrize(
    ("build", "names", "says"),
    [
        (fused, ("first",), "as many outputs as inputs"),
        (fused, ("out",), "is not a hidden dense"),
        (sequences, ("each/first",), "TimeDistributed"),
        (in_block, ("block/dense",), "inside Block"),
        (subclassed, ("first",), "is code"),
    ],
)
def test_refused_residuals_have_a_reason(build: Any, names: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Surgeon(build()).check(AddResidual(names))


def test_shared_layers_and_activations_get_no_residual() -> None:
    inputs = keras.Input((8,))
    shared, act = layers.Dense(8, name="shared"), layers.Activation("tanh", name="act")
    x = layers.Dense(8, name="own")(act(shared(act(shared(inputs)))))
    model = keras.Model(inputs, layers.Dense(3, name="out")(act(x)))
    for name, says in (("shared", "more than once"), ("own", "other layers share")):
        with pytest.raises(ConfigError, match=says):
            Surgeon(model).check(AddResidual((name,)))


# -- the output layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [fused, added, called, branched, nested, images, two_inputs])
def test_output_layer_is_scaled_down(build: Callable[[], Any]) -> None:
    model = build()
    changed, (done,) = operate(model, ScaleOutputLayer(0.25))
    assert done == ScaleOutputLayer(0.25, ("out",))
    np.testing.assert_allclose(
        changed.get_layer("out").get_weights()[0], 0.25 * model.get_layer("out").get_weights()[0], rtol=1e-6
    )
    again, _ = apply_edits((done,), model, None)
    np.testing.assert_allclose(again(data_of(model)), changed(data_of(model)), rtol=1e-6)


def test_refused_output_scales_have_a_reason() -> None:
    normalized = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization()])
    recurrent = keras.Sequential([keras.Input((4, 1)), layers.LSTM(3)])
    for model, keep, says in (
        (normalized, (), "undoes"),
        (recurrent, (), "not computed by"),
        (fused(), ("out",), "keep='out'"),
        (subclassed(), (), "is code"),
    ):
        with pytest.raises(ConfigError, match=says):
            Surgeon(model, keep).check(ScaleOutputLayer(0.1))


# -- attention --------------------------------------------------------------------------------------------------------


def largest_logits(model: Any, x: Any) -> list[float]:
    """Return the largest logit of each bounded attention layer, in call order."""
    found: list[float] = []
    attentions = [a for a in model._flatten_layers() if isinstance(a, CosineAttention | CosineGroupedAttention)]
    for attention in attentions:
        assert noted_method(attention) == "_attend"
        own = attention._attend

        def listening(query: Any, key: Any, *args: Any, own: Any = own, **kwargs: Any) -> Any:
            size = query.shape[-1] ** -0.5
            logits = keras.ops.einsum("bqhd,bkhd->bhqk", query, key) * size
            found.append(float(keras.ops.max(keras.ops.abs(logits))))
            return own(query, key, *args, **kwargs)

        object.__setattr__(attention, "_attend", listening)
    model(x)
    for attention in attentions:
        object.__delattr__(attention, "_attend")
    return found


def test_attention_is_bounded_with_the_same_weights(tmp_path: Any) -> None:
    model = attending()
    model.get_layer("several").query_dense.kernel.assign(100 * model.get_layer("several").query_dense.kernel)
    weights = model.get_weights()
    changed, (done,) = operate(model, ClipAttention(("several", "grouped"), 3.0))
    assert done == ClipAttention(("several", "grouped"), 3.0)
    for old, new in zip(weights, changed.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    logits = largest_logits(changed, X)
    assert len(logits) == 2
    assert 0 < max(logits) <= 3.0 + 1e-4
    assert {info.kind for info in layer_infos(changed)} == {"dense", "attention"}
    changed.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(X), changed(X), rtol=1e-5)
    assert loaded.get_layer("several").limit == 3.0
    trained(changed)


@pytest.mark.parametrize("build", [in_block, subclassed])
def test_attention_in_user_code_is_bounded_in_place(build: Callable[[], Any]) -> None:
    model = build()
    surgeon = Surgeon(model, (), None, [(4,)])
    name = next(i.name for i in layer_infos(model) if i.kind == "attention")
    surgeon.apply(ClipAttention((name,), 2.0))
    assert max(largest_logits(surgeon.model, X)) <= 2.0 + 1e-4
    trained(surgeon.model)


def test_changes_in_place_survive_later_edits() -> None:
    edits = (
        ClipAttention(("block/attention",), 2.0),
        SwapActivation(("block/dense",), "tanh"),
        AddDropout(("first",), 0.1),
    )
    changed, _ = operate(in_block(), *edits)
    block = changed.get_layer("block")
    assert isinstance(block.attention, CosineAttention)
    assert block.attention.limit == 2.0
    assert block.dense.activation is keras.activations.tanh


def test_nothing_is_inserted_after_a_layer_inside_code() -> None:
    """A layer to insert after an inner dense layer is not inserted after the code around it."""
    model = in_block()
    for edit in (
        InsertNormalization(("block/dense",)),
        AddDropout(("block/dense",), 0.1),
        SwapActivation(("block/dense",), "thresholded_relu"),
    ):
        with pytest.raises(ConfigError):
            Surgeon(model).check(edit)
    surgeon = Surgeon(sequences(), (), None, [(4,)])
    surgeon.apply(SwapActivation(("each/first",), "thresholded_relu"))
    names = [layer.name for layer in surgeon.model.layers]
    assert names.index("first_activation") == names.index("each") + 1


def test_shared_activation_belongs_to_all_its_layers() -> None:
    act, inputs = layers.ReLU(name="act"), keras.Input((4,))
    x = act(layers.Dense(8, name="second")(act(layers.Dense(8, name="first")(inputs))))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    assert [info.activation for info in layer_infos(model) if info.kind == "dense"] == ["relu", "relu", "linear"]


def test_layers_with_arbitrary_arguments_keep_their_name() -> None:
    assert copy_layer(Block(name="mine")).name == "mine"


@pytest.mark.parametrize(
    ("build", "names", "says"),
    [(attending, ("first",), "no attention layer"), (attending, ("nope",), "no layer named")],
)
def test_refused_attention_bounds_have_a_reason(build: Any, names: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Surgeon(build()).check(ClipAttention(names))

    class Custom(layers.MultiHeadAttention):
        pass

    inputs = keras.Input((4, 8))
    own = keras.Model(inputs, layers.Dense(1)(Custom(2, 4, name="own")(inputs, inputs)))
    with pytest.raises(ConfigError, match="Custom can't be bounded"):
        Surgeon(own).check(ClipAttention(("own",)))
