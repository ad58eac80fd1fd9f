"""Lines of Keras code run as they stand, and do what `RepairPlan.apply` does."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from autotrainer import edits as e
from autotrainer.backends.keras3.patches.patch import patch
from autotrainer.backends.keras3.surgery.surgery import apply_edits
from autotrainer.reporting.plan import RepairPlan

SETTINGS: list[e.Edit] = [
    e.SetLearningRate(0.5),
    e.SwapOptimizer("rmsprop", 0.01),
    e.SwapOptimizer("sgd", 0.01, momentum=0.9),
    e.SwapOptimizer("adamw", 0.01),
    e.SetMomentum(0.9),
    e.SetMomentum(0.9, nesterov=True),
    e.SetWeightDecay(0.02),
]


def _run(edit: e.Edit, model: Any, **names: Any) -> dict[str, Any]:
    names |= {"keras": keras, "np": np, "model": model}
    exec("\n".join(patch(edit)), names)
    return names


@pytest.mark.parametrize(
    "edit", [*(s for s in SETTINGS if s != SETTINGS[3]), e.ClipGradients("norm", 1.0), e.ClipGradients("value", 0.5)],
    ids=repr,
)  # fmt: skip
def test_settings_equal_those_of_the_plan(edit: e.Edit) -> None:

    def compiled() -> Any:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        return model

    model = compiled()
    _run(edit, model)
    _, optimizer = RepairPlan(("x",), (edit,), framework="keras3").apply(compiled())
    mine = model.optimizer
    assert type(mine) is type(optimizer)
    assert {**mine.get_config(), "name": ""} == {**optimizer.get_config(), "name": ""}
    history = model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0).history
    assert set(history) == {"loss", "mae"}, "the rest of what was compiled stays"
    assert int(mine.iterations) == 1


@pytest.mark.parametrize(
    "edit",
    [
        e.SetLoss("cross_entropy", "probabilities"),
        e.SetLoss("binary_cross_entropy", "logits"),
        e.SetLoss("signed_logistic", "logits"),
        e.ReduceOnPlateau(0.5, 3, 0.01),
        e.StopEarly(3),
        e.SetBatchSize(32),
        e.SwapActivation(("dense",), "selu"),
        e.Reinitialize(("dense",), "he_uniform"),
        e.InsertNormalization(("dense",)),
        e.AddDropout(("dense",), 0.3),
        e.AddInputNoise(0.1),
        e.ScaleInputs((1.0, 0.0), (2.0, 1.0)),
        e.ScaleInputs(),
        e.SetOutputActivation("softmax"),
    ],
    ids=repr,
)
def test_other_settings_run(edit: e.Edit) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    model.compile("sgd", "mse")
    x = np.array([[1.0, 0.0], [3.0, 4.0]])
    names = _run(edit, model, x=x, x_train=x)
    if "loss" in names:
        model.compile("sgd", names["loss"])
        classes = isinstance(edit, e.SetLoss) and edit.name == "cross_entropy"
        assert np.isfinite(model.evaluate(x, np.array([0, 1]) if classes else np.ones((2, 2)), verbose=0))


@pytest.mark.parametrize("expects", ["logits", "probabilities"])
def test_class_numbers_may_be_floats_in_a_column(expects: Any) -> None:
    loss = _run(e.SetLoss("cross_entropy", expects), None)["loss"]
    outputs, classes = np.full((3, 3), 1 / 3, "float32"), np.array([[0.0], [2.0], [1.0]], "float32")
    assert float(loss(classes, outputs)) == pytest.approx(np.log(3), rel=1e-5)


def test_numbers_far_larger_than_their_scale_keep_their_digits() -> None:
    center, x = 1_600_000_123.0, np.array([[1_600_000_223.0, 3.0]])
    scaled = _run(e.ScaleInputs((center, 1.0), (100.0, 2.0)), None, x=x)["x"]
    assert scaled.tolist() == [[1.0, 1.0]]


def test_numbers_for_missing_values_are_replaced() -> None:
    columns = ((0.0, 5.0), (0.0, 1.0), (), (), (1,), (-999.0,), (-3.0,))
    x = np.array([[-999.0, -999.0], [3.0, 5.0]])
    assert _run(e.ScaleInputs((1.0, 0.0), (2.0, 1.0), *columns), None, x=x)["x"].tolist() == [
        [-500.0, -3.0],
        [1.0, 0.0],
    ]
    assert x[0, 1] == -999


TARGETS: list[e.Edit] = [
    e.ScaleTargets((3.0,), (2.0,)),
    e.EncodeTargets("zero_one"),
    e.EncodeTargets("zero_one", (-3.0, 1.0)),
    e.EncodeTargets("signed"),
    e.DropBadRows(1),
    e.WeightClasses((0.5, 2.0)),
    e.WeightClasses(),
]


@pytest.mark.parametrize("edit", TARGETS, ids=repr)
def test_targets(edit: e.Edit) -> None:
    x, y = np.array([[1.0, 0.0], [3.0, np.nan], [0.0, 0.0]]), np.array([[1.0], [-1.0], [1.0]])
    y = np.abs(y) if isinstance(edit, e.WeightClasses) else y
    names = _run(edit, keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), x_train=x, y_train=y)
    if isinstance(edit, e.ScaleTargets | e.EncodeTargets):
        wanted = {"zero_one": [1, 0, 1], "signed": [1, -3, 1]}.get(getattr(edit, "to", ""), [-1, -2, -1])
        wanted = [1, 0.5, 1] if getattr(edit, "labels", ())[:1] == (-3.0,) else wanted
        assert names["y_train"].ravel().tolist() == wanted
    if isinstance(edit, e.DropBadRows):
        assert len(names["y_train"]) == 2
    if isinstance(edit, e.WeightClasses):
        assert set(names["class_weight"]) == {0, 1} if edit.weights else {1}


def test_targets_on_a_logarithmic_scale() -> None:
    edit = e.ScaleTargets((3.0,), (2.0,), True, (1.0,), (10.0,), (1.5,))
    model, x = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), 5 * np.eye(2)
    pasted = _run(edit, model, y_train=np.array([[51.0]]))
    assert pasted["y_train"].item() == pytest.approx((np.arcsinh(5.0) - 3) / 2)
    applied, _ = apply_edits((edit,), model, keras.optimizers.SGD(0.1))
    np.testing.assert_allclose(pasted["predict"](x), applied.predict(x, verbose=0), rtol=1e-4)


def test_classes_are_numbered_and_shapes_aligned() -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    numbered = _run(e.NumberClasses((2, 5, 9)), model, y_train=np.array([9, 2, 5]))
    assert numbered["y_train"].tolist() == [2, 0, 1]
    assert _run(e.EncodeTargets("index"), model, y_train=np.array([[0, 1], [1, 0]]))["y_train"].tolist() == [1, 0]
    assert _run(e.EncodeTargets("one_hot"), model, y_train=np.array([1, 0]))["y_train"].shape == (2, 2)
    assert _run(e.ReshapeTargets(), model, y_train=np.ones(4).reshape(2, 2))["y_train"].shape == (2, 2)
    _run(e.ShuffleData(), model)


# -- schedules and safeguards -----------------------------------------------------------------------------------------


def _model() -> Any:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


@pytest.mark.parametrize(
    "edit",
    [e.WarmUpRate(4), e.DecayRate(0.1, steps=20), e.TuneAdam(0.95, 1e-5), e.TuneAdam(0.95, clip_updates=True)],
    ids=repr,
)
def test_schedules_and_adam_equal_those_of_the_plan(edit: e.Edit) -> None:
    model = _model()
    _run(edit, model)
    _, optimizer = RepairPlan(("x",), (edit,), framework="keras3").apply(_model())
    mine, wanted = ({**o.get_config(), "name": ""} for o in (model.optimizer, optimizer))
    assert str(mine) == str(wanted)
    assert ("update_step" in vars(model.optimizer)) is ("update_step" in vars(optimizer))
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)


def test_safeguards() -> None:
    keras.utils.set_random_seed(0)
    model = _model()
    x, y = np.ones((8, 4)), np.ones((8, 2))
    model.fit(x, y, verbose=0)
    _run(e.ResetOptimizerState(1), model)
    assert int(model.optimizer.iterations) == 0
    back = _run(e.Rollback(), model)["Rollback"]()
    model.fit(x, y, epochs=2, verbose=0, callbacks=[back])
    kept, rate = [np.array(w) for w in back.kept[:2]], float(model.optimizer.learning_rate)
    model.fit(x * np.nan, y, verbose=0, callbacks=[back])
    assert all(np.array_equal(a, b) for a, b in zip(kept, model.get_weights(), strict=True))
    assert float(model.optimizer.learning_rate) == pytest.approx(rate / 2)
    assert _run(e.ReviveUnits(("dense",)), model)["hidden"] == [model.layers[0]]
    assert _run(e.ExtendTraining(9), model)["epochs"] == 9
    assert _run(e.DecayRate(), model, epochs=3, steps_per_epoch=4)["steps"] == 12
    policy = keras.config.dtype_policy()
    try:
        _run(e.RaisePrecision(), model)
        assert keras.config.dtype_policy().name == "float32"
    finally:
        keras.config.set_dtype_policy(policy)
    for edit in (e.SkipUpdates(), e.CompleteOptimizer(), e.RestoreZeroGrad(), e.SetMode()):
        assert all(line.startswith("#") for line in patch(edit)), "left to the user"
