"""Edits of data and targets in managed trainings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from autotrainer import edits as e
from autotrainer.adapter.spec import FitRequest, TrainingSpec
from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.layers.label_columns import LabelColumns
from autotrainer.backends.keras3.runtime.saving import save_model
from autotrainer.backends.keras3.surgery.surgery import apply_edits
from autotrainer.backends.keras3.training.trainer import make_trainer
from autotrainer.records.data import ArrayData, StreamData, normalize

RNG = np.random.default_rng(0)
X = RNG.normal(size=(260, 4)).astype("float32")
LINE = (X[:, 0] - X[:, 1]) / np.sqrt(2)
CLASS = (X[:, 0] > X[:, 1]).astype("int64")
LARGE = (2_000 * LINE + 50_000).astype("float32")


def dense(units: int, activation: Any = None, seed: int = 0, **options: Any) -> Any:
    return layers.Dense(units, activation, kernel_initializer=keras.initializers.GlorotUniform(seed), **options)


def net(units: int = 1, activation: Any = None) -> Any:
    return keras.Sequential([keras.Input((4,)), dense(16, "relu"), dense(units, activation, 1)])


def branched() -> Any:
    """Two inputs in a dict, a frozen branch, a layer used twice."""
    one, two = keras.Input((2,), name="one"), keras.Input((2,), name="two")
    shared = dense(8, "relu")
    frozen = dense(8, "relu", 2, name="frozen", trainable=False)(one)
    joined = layers.Concatenate()([shared(one), shared(two), frozen])
    return keras.Model({"one": one, "two": two}, dense(1, None, 1)(joined))


class Net(keras.Model):  # type: ignore[misc]
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = dense(16, "relu"), dense(1, None, 1)

    def call(self, x: Any) -> Any:
        return self.out(self.hidden(x))


class CustomStep(Net):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class CustomLoss(keras.losses.Loss):  # type: ignore[misc]
    """Does not align shapes."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.square(y_true - y_pred)


def request(model: Any, targets: Any, loss: Any, inputs: Any = None, **options: Any) -> FitRequest:
    x = X if inputs is None else inputs
    take = (lambda s: {k: v[s] for k, v in x.items()}) if isinstance(x, dict) else lambda s: x[s]
    given: dict[str, Any] = {
        "train": (take(slice(200)), targets[:200]),
        "validation": (take(slice(200, None)), targets[200:]),
        "optimizer": keras.optimizers.Adam(1e-2),
        "epochs": 10,
        "batch_size": 32,
        **options,
    }
    given.update({name: normalize(given[name], name) for name in ("train", "validation")})
    return FitRequest(model, loss=loss, **given)


@pytest.fixture
def train(make_run: Callable[..., Any]) -> Callable[..., Any]:
    def run_one(given: FitRequest, *edits: e.Edit, epochs: int = 10, watched: bool = False) -> tuple[Any, Any]:
        run = make_run(watched=watched)
        trained = make_trainer(given).train(TrainingSpec(epochs, 0, edits), run)
        run.monitor.close()
        return trained, run

    return run_one


def r2(trained: Any, targets: Any, inputs: Any = None) -> float:
    x = X[200:] if inputs is None else {name: array[200:] for name, array in inputs.items()}
    y = targets[200:].reshape(-1)
    return float(1 - np.mean((trained.predict(x).reshape(-1) - y) ** 2) / y.var())


# -- scaled targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [net, Net])
def test_scaled_targets_are_predicted_in_their_original_units(train: Any, build: Any) -> None:
    trained, run = train(request(build(), LARGE[:, None], "mse"), e.ScaleTargets(), epochs=20, watched=True)
    assert r2(trained, LARGE) > 0.8
    assert trained.edits[0].mean == pytest.approx((float(LARGE[:200].mean()),), rel=1e-5)
    errors = trained.predict(X[200:])[:, 0] - LARGE[200:]
    evaluation = run.ends[-1][2]
    assert evaluation.loss == pytest.approx(np.mean(errors**2), rel=1e-3)
    assert evaluation.training_loss == pytest.approx(np.mean(errors**2) / trained.edits[0].std[0] ** 2, rel=1e-3)
    seen = run.monitor.history
    assert abs(seen.targets.mean) < 0.2, "the monitor gets the targets of the loss"
    assert seen.targets.variance == pytest.approx(1, abs=0.2)
    squared = seen.scalar("squared_error")
    assert np.nanmax(squared) < 100


def test_branched_graph_is_scaled_and_frozen_layers_do_not_change(train: Any) -> None:
    model = branched()
    frozen = model.get_layer("frozen").get_weights()
    inputs = {"one": X[:, :2], "two": X[:, 2:]}
    trained, _ = train(request(model, LARGE[:, None], "mae", inputs), e.ScaleTargets(), epochs=20)
    assert r2(trained, LARGE, inputs) > 0.6
    for before, after in zip(frozen, trained.model.get_layer("frozen").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_columns_are_scaled_separately_together_with_other_edits(train: Any) -> None:
    targets = np.c_[500 * X[:, 0], 0.01 * X[:, 1] + 300].astype("float32")
    edits = (e.ScaleTargets(), e.ScaleInputs(), e.SetOutputActivation("linear"))
    trained, _ = train(request(net(2, "sigmoid"), targets, "mse"), *edits, epochs=20)
    wrong = ((trained.predict(X[200:]) - targets[200:]) ** 2).mean(0) / targets[200:].var(0)
    assert (wrong < 0.5).all()


def test_targets_over_decades_are_learned_as_logarithms(train: Any, tmp_path: Path) -> None:
    targets = np.exp(8 + 3 * X[:, :1]).astype("float32")
    trained, run = train(request(net(), targets, "mse"), e.ScaleTargets(logarithm=True), epochs=40)
    edit = trained.edits[0]
    predictions = trained.predict(X[200:])
    assert np.mean(np.abs(np.log(predictions.clip(1) / targets[200:]))) < 1.0
    assert predictions.max() <= targets[:200].max() * 1.01
    logarithms = [np.arcsinh(each / edit.log_scale[0]) for each in (predictions, targets[200:])]
    wanted = np.mean((logarithms[0] - logarithms[1]) ** 2) / edit.std[0] ** 2
    assert run.ends[-1][2].training_loss == pytest.approx(wanted, rel=1e-3)
    loaded = keras.models.load_model(save_model(trained.model, tmp_path))
    np.testing.assert_allclose(loaded.predict(X[200:], verbose=0), predictions, rtol=1e-4)
    assert make_trainer(request(net(), LARGE[:, None], "mse")).supports(e.ScaleTargets(logarithm=True)).reason


def test_a_scaled_model_is_saved_and_planned(train: Any, tmp_path: Path) -> None:
    trained, _ = train(request(net(), LARGE[:, None], keras.losses.Huber()), e.ScaleTargets(), epochs=2)
    loaded = keras.models.load_model(save_model(trained.model, tmp_path))
    np.testing.assert_allclose(loaded.predict(X, verbose=0), trained.predict(X), rtol=1e-5)
    assert isinstance(loaded.loss, ConvertedLoss)
    assert loaded.loss.edits == trained.edits
    fresh = net()
    plain = fresh.predict(X, verbose=0)
    repeated, _ = apply_edits(trained.edits, fresh, keras.optimizers.SGD(0.1))
    mean, std = trained.edits[0].mean[0], trained.edits[0].std[0]
    np.testing.assert_allclose(repeated.predict(X, verbose=0), plain * std + mean, rtol=1e-5)


# -- encoded, numbered and reshaped targets ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "edit", "loss", "activation"),
    [
        (
            lambda y: np.eye(2, dtype="float32")[y],
            e.EncodeTargets("index"),
            "sparse_categorical_crossentropy",
            "softmax",
        ),
        (lambda y: y, e.EncodeTargets("one_hot"), keras.losses.CategoricalCrossentropy(True), None),
        (lambda y: y + 1, e.NumberClasses(fill=0.0), "sparse_categorical_crossentropy", "softmax"),
        (lambda y: 7 * y + 5, e.NumberClasses(), keras.losses.SparseCategoricalCrossentropy(True), None),
    ],
)
def test_classes_reach_the_loss_in_the_expected_encoding(
    train: Any, labels: Any, edit: Any, loss: Any, activation: Any, tmp_path: Path
) -> None:
    trained, run = train(request(net(2, activation), labels(CLASS), loss), edit)
    assert all(np.isfinite(values["loss"]) for _, values, _ in run.ends)
    answers = trained.predict(X[200:]).argmax(1)
    wanted = labels(np.array([0, 1]))
    if isinstance(edit, e.NumberClasses):
        assert set(answers) <= set(wanted.tolist()), "predictions are the user's labels"
        answers = np.searchsorted(wanted, answers)
    assert np.mean(answers == CLASS[200:]) > 0.85
    loaded = keras.models.load_model(save_model(trained.model, tmp_path))
    np.testing.assert_allclose(loaded.predict(X, verbose=0), trained.predict(X), rtol=1e-4, atol=1e-6)


def test_label_columns_layer() -> None:
    layer = LabelColumns((1, 3), fill=-5.0)
    columns = keras.ops.convert_to_numpy(layer(np.array([[0.25, 0.75, 9.0]], "float32")))
    np.testing.assert_array_equal(columns, [[-5.0, 0.25, -5.0, 0.75]])
    assert LabelColumns.from_config(layer.get_config()).compute_output_shape((None, 3)) == (None, 4)


def test_signed_labels_work_with_a_loss_of_logits(train: Any) -> None:
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    signed = (2.0 * CLASS - 1)[:, None].astype("float32")
    trained, _ = train(request(net(), signed, loss), e.EncodeTargets("zero_one"))
    assert np.mean(np.sign(trained.predict(X[200:])) == signed[200:]) > 0.85


def test_probability_is_mapped_between_two_labels(train: Any) -> None:
    given = request(net(1, "sigmoid"), (CLASS + 1.0)[:, None].astype("float32"), "binary_crossentropy")
    edit = e.ScaleTargets((1.0,), (1.0,))
    assert make_trainer(given).supports(edit)
    trained, _ = train(given, edit)
    answers = trained.predict(X[200:])[:, 0]
    assert ((answers > 1) & (answers < 2)).all()
    assert np.mean((answers > 1.5) == CLASS[200:]) > 0.85


def test_reshaped_targets_are_learned(train: Any) -> None:
    given = request(net(), LINE, CustomLoss())
    plain, _ = train(given)
    trained, _ = train(given, e.ReshapeTargets())
    assert r2(plain, LINE) < 0.3
    assert r2(trained, LINE) > 0.8
    assert make_trainer(given).context.output_rank == 2
    assert make_trainer(request(net(), LINE, "mse")).context.output_rank is None, "Keras aligns these itself"


# -- rows ---------------------------------------------------------------------------------------------------------


class Parts(keras.utils.PyDataset):  # type: ignore[misc]
    def __init__(self, x: Any, y: Any) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        rows = slice(25 * index, 25 * index + 25)
        return self.x[rows], self.y[rows]


def dataset(x: Any, y: Any, size: int = 32) -> Any:
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


@pytest.mark.parametrize("kind", ["arrays", "tf.data", "PyDataset"])
@pytest.mark.parametrize("in_targets", [False, True])
def test_bad_rows_are_dropped_and_counted(train: Any, kind: str, in_targets: bool) -> None:
    x, y = X[:200].copy(), LINE[:200, None].copy().astype("float32")
    (y if in_targets else x)[::29, 0] = np.nan
    x[40, 2] = np.inf
    data: Any = {"arrays": (x, y), "tf.data": dataset(x, y), "PyDataset": Parts(x, y)}[kind]
    given = request(net(), LINE[:, None], "mse", train=data)
    trained, run = train(given, e.DropBadRows())
    assert trained.edits == (e.DropBadRows(8),)
    assert r2(trained, LINE) > 0.8
    if kind == "arrays":
        assert run.trained == 10 * (200 - 8)


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_rows_are_shuffled_in_each_epoch_and_equally_for_equal_seeds(train: Any, kind: str) -> None:
    x = np.arange(64, dtype="float32")[:, None]
    seen: list[Any] = []

    class Notes(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            tf.py_function(lambda y: seen.append(np.asarray(y).reshape(-1)), [y_true], [])
            return 0 * keras.ops.sum(y_pred, axis=-1)

    model = keras.Sequential([keras.Input((1,)), dense(1)])
    data: Any = (x, x) if kind == "arrays" else dataset(x, x, 8)
    given = request(model, x, Notes(), train=data, validation=(x[:2], x[:2]), fit_args={"shuffle": False}, batch_size=8)
    orders = []
    for _ in range(2):
        seen.clear()
        train(given, e.ShuffleData(), epochs=2)
        orders.append(np.concatenate([batch for batch in seen if len(batch) == 8][-16:]))
    np.testing.assert_array_equal(*orders)
    first, second = orders[0][:64], orders[0][64:]
    assert sorted(first) == sorted(second) == list(range(64))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("kind", ["arrays", "tf.data"])
def test_class_weights_balance_the_classes(train: Any, kind: str) -> None:
    y = (X[:, 0] > 1.3).astype("int64")
    data: Any = (X[:200], y[:200]) if kind == "arrays" else dataset(X[:200], y[:200])
    given = request(
        net(2, "softmax"), y, "sparse_categorical_crossentropy", train=data, optimizer=keras.optimizers.SGD(0.05)
    )
    plain, _ = train(given, epochs=6)
    trained, _ = train(given, e.WeightClasses(), epochs=6)
    rare = y[:200].sum()
    assert trained.edits[0].weights == pytest.approx((100 / (200 - rare), 100 / rare))
    found = [model.predict(X[200:]).argmax(1)[y[200:] == 1].mean() for model in (plain, trained)]
    assert found[0] < 0.5 < found[1]


def test_class_weights_replace_those_of_the_user(train: Any) -> None:
    y = (X[:, 0] > 0.8).astype("int64")
    loss = "sparse_categorical_crossentropy"
    predictions = []
    for data in ((X[:200], y[:200]), dataset(X[:200], y[:200])):
        for options in ({}, {"fit_args": {"class_weight": {0: 5.0, 1: 0.1}}}):
            given = request(net(2, "softmax"), y, loss, train=data, **options)
            predictions.append(train(given, e.WeightClasses(), epochs=1)[0].predict(X))
    for first, second in zip(predictions[::2], predictions[1::2], strict=True):
        np.testing.assert_array_equal(first, second)


def test_class_weights_multiply_row_weights_and_user_weights(train: Any) -> None:
    y = (X[:, 0] > 0.8).astype("int64")
    weights = RNG.uniform(0.5, 2.0, 200).astype("float32")
    loss, softmax = "sparse_categorical_crossentropy", lambda: net(2, "softmax")
    one = request(softmax(), y, loss, train=(X[:200], y[:200], weights))
    other = request(softmax(), y, loss, train=(X[:200], y[:200], weights * np.where(y[:200], 3.0, 0.5)))
    predictions = [
        train(one, e.WeightClasses((0.5, 3.0)), epochs=2)[0].predict(X),
        train(other, epochs=2)[0].predict(X),
    ]
    np.testing.assert_allclose(*predictions, rtol=1e-4, atol=1e-6)


# -- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "targets", "loss", "edit", "reason"),
    [
        (CustomStep, LARGE[:, None], "mse", e.ScaleTargets(), "overrides train_step"),
        (net, LARGE[:, None], "mape", e.ScaleTargets(), "by their difference"),
        (net, np.c_[LARGE, LARGE], "mse", e.ScaleTargets(), "2 columns"),
        (lambda: net(2, "softmax"), CLASS, "sparse_categorical_crossentropy", e.NumberClasses(), "from 0 already"),
        (lambda: net(2), CLASS, "mse", e.NumberClasses(), "takes no class numbers"),
        (net, LINE[:, None], "mse", e.ReshapeTargets(), "shape of the outputs already"),
        (net, LINE[:, None], "mse", e.ShuffleData(), "shuffled in each epoch already"),
        (net, LINE[:, None], "mse", e.DropBadRows(), "are finite"),
        (net, LINE[:, None], "mse", e.WeightClasses(), "these are real numbers"),
        (CustomStep, CLASS, "mse", e.EncodeTargets("zero_one"), "code of its own"),
    ],
)
def test_refusals_have_a_reason(build: Any, targets: Any, loss: Any, edit: e.Edit, reason: str) -> None:
    support = make_trainer(request(build(), targets, loss)).supports(edit)
    assert not support
    assert reason in support.reason


def test_data_sets_with_a_fixed_order_are_not_shuffled() -> None:
    parts = Parts(X[:200], LINE[:200, None])
    endless = dataset(X[:200], LINE[:200, None]).repeat()
    for data, reason in ((parts, "sets the order of its rows itself"), (endless, "infinite")):
        given = request(net(), LINE[:, None], "mse", train=StreamData(data), fit_args={"steps_per_epoch": 4})
        assert reason in make_trainer(given).supports(e.ShuffleData()).reason


def test_several_outputs_are_refused(train: Any) -> None:
    x = keras.Input((4,))
    hidden = dense(8, "relu")(x)
    model = keras.Model(x, [dense(1, None, 1)(hidden), dense(1, None, 2)(hidden)])
    two = tf.data.Dataset.from_tensor_slices((X[:64], (LARGE[:64, None], LINE[:64, None]))).batch(16)
    given = FitRequest(model, StreamData(two), StreamData(two), ["mse", "mse"], keras.optimizers.Adam(), 1, 16)
    trainer = make_trainer(given)
    for edit in (e.ScaleTargets(), e.ReshapeTargets(), e.WeightClasses()):
        support = trainer.supports(edit)
        assert not support
        assert "several" in support.reason


def test_data_arrays_are_not_changed(train: Any) -> None:
    given = request(net(), LARGE[:, None], "mse")
    assert isinstance(given.train, ArrayData)
    before = given.train.targets.copy()
    train(given, e.ScaleTargets(), epochs=1)
    np.testing.assert_array_equal(given.train.targets, before)
