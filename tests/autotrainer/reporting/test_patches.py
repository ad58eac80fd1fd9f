"""The lines of a patch run as they stand, and do what `RepairPlan.apply` does."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.reporting.patches import in_patch_order, lines
from autotrainer.reporting.plan import RepairPlan

NAMES = ("0", "1", "2", "3", "5")
"""Dense layers without and with bias, a normalization, and activations; `6` is the output."""

SETTINGS: list[e.Edit] = [
    e.SetLearningRate(0.5),
    e.SwapOptimizer("rmsprop", 0.01),
    e.SwapOptimizer("sgd", 0.01, momentum=0.9),
    e.SwapOptimizer("adamw", 0.01),
    e.SetMomentum(0.9),
    e.SetMomentum(0.9, nesterov=True),
    e.SetWeightDecay(0.02),
]


def _torch_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Identity(), nn.ReLU(),
        nn.Linear(8, 2),
    )  # fmt: skip


def _run(edit: e.Edit, framework: str, **names: Any) -> dict[str, Any]:
    code = "\n".join(lines(edit, framework))
    exec(code, names)
    return names


def _torch_run(edit: e.Edit, model: nn.Module, **names: Any) -> dict[str, Any]:
    return _run(edit, "pytorch", torch=torch, nn=nn, copy=copy, model=model, **names)


def _groups(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    found = []
    for group in optimizer.param_groups:
        settings = {k: v for k, v in group.items() if k != "params"}
        found += [(tuple(p.shape), sorted(settings.items(), key=str)) for p in group["params"]]
    return sorted(found, key=str)


@pytest.mark.parametrize("edit", SETTINGS, ids=str)
def test_settings_in_pytorch_are_those_of_the_plan(edit: e.Edit) -> None:
    model = _torch_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.001)
    pasted = _torch_run(edit, model, optimizer=optimizer)["optimizer"]
    other = _torch_model()
    plan = RepairPlan(("x",), (edit,))
    _, applied = plan.apply(other, torch.optim.SGD(other.parameters(), lr=0.1, weight_decay=0.001))
    assert type(pasted) is type(applied)
    assert _groups(pasted) == _groups(applied)


@pytest.mark.parametrize("to", ["selu", "leaky_relu", "tanh", "thresholded_relu"])
def test_swapped_activations_in_pytorch(to: Any) -> None:
    edit = e.SwapActivation(NAMES, to, reinitialize=False)
    model = _torch_model()
    _torch_run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(_torch_model())
    x = torch.randn(16, 4)
    assert torch.equal(model.eval()(x), applied.eval()(x))
    redrawn = _torch_model()
    _torch_run(e.SwapActivation(NAMES, to), redrawn)
    assert (redrawn[3].weight == 1).all(), "normalization stays as it is"
    assert not redrawn[2].bias.any()
    assert not torch.equal(redrawn[2].weight, _torch_model()[2].weight)


def test_new_weights_in_pytorch() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 8), "dense": nn.Linear(8, 2, bias=False)})
    _torch_run(e.Reinitialize(("rnn", "dense"), "orthogonal"), model)
    weight = model["dense"].weight
    assert torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-5)
    assert not model["rnn"].bias_hh_l0.any()


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_normalization_in_pytorch(kind: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2))
    given = copy.deepcopy(model)
    edit = e.InsertNormalization(("0", "3"), kind)
    _torch_run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(given)
    x = torch.randn(8, 1, 4, 4)
    assert torch.allclose(model.train()(x), applied.train()(x), atol=1e-6)
    assert isinstance(model[0], nn.Sequential)
    assert isinstance(model[3], nn.Sequential)


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
@pytest.mark.parametrize("dimensions", [1, 3])
def test_normalization_of_any_convolution_in_pytorch(kind: Any, dimensions: int) -> None:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    model = nn.Sequential(convolution(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(8, 1, *[4] * dimensions)
    model(x)
    given, edit = copy.deepcopy(model), e.InsertNormalization(("0",), kind)
    _torch_run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(given)
    assert torch.allclose(model.train()(x), applied.train()(x), atol=1e-6)


def test_activations_called_as_functions_are_for_the_users_hand() -> None:
    called = lines(e.SwapActivation(("a", "b"), "elu", calls=(0, 1)), "pytorch")
    assert called[0] == "# in forward, where it calls these layers' activation as a function:  nn.ELU()(…)"
    assert not lines(e.SwapActivation(("a",), "elu"), "pytorch")[0].startswith("#")


@pytest.mark.parametrize(
    "edit",
    [
        e.SetLoss("cross_entropy", "logits"),
        e.SetLoss("cross_entropy", "probabilities"),
        e.SetLoss("cross_entropy", "log_probabilities"),
    ],
    ids=str,
)
def test_losses_in_pytorch(edit: e.SetLoss) -> None:
    z, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    made = {"logits": z, "probabilities": z.softmax(1), "log_probabilities": z.log_softmax(1)}[edit.expects]
    loss = _torch_run(edit, nn.Identity())["loss_fn"]
    assert torch.allclose(loss(made, y), nn.functional.cross_entropy(z, y), atol=1e-5)
    if edit.expects != "log_probabilities":
        assert torch.allclose(
            loss(made, nn.functional.one_hot(y).float()), nn.functional.cross_entropy(z, y), atol=1e-5
        )


@pytest.mark.parametrize(
    ("edit", "wanted"),
    [
        (e.SetLoss("squared_error", "values"), nn.functional.mse_loss),
        (e.SetLoss("absolute_error", "values"), nn.functional.l1_loss),
        (e.SetLoss("binary_cross_entropy", "logits"), nn.functional.binary_cross_entropy_with_logits),
        (e.SetLoss("binary_cross_entropy", "probabilities"), nn.functional.binary_cross_entropy),
        (e.SetLoss("signed_logistic", "logits"), nn.functional.soft_margin_loss),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_losses_in_pytorch_take_targets_of_any_form(edit: e.SetLoss, wanted: Any) -> None:
    """A flat vector of targets against a column of outputs is what such a repair mends."""
    outputs, labels = torch.rand(6, 1), torch.tensor([1, 1, 0, 1, 0, 1])
    loss = _torch_run(edit, nn.Identity())["loss_fn"]
    assert torch.equal(loss(outputs, labels), wanted(outputs, labels[:, None].float()))


def test_the_rest_runs_in_pytorch() -> None:
    model = _torch_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(9, 4)), 2)
    model(torch.ones(3, 4)).sum().backward()
    names = {"optimizer": optimizer, "train_loader": loader, "x": torch.ones(3, 2)}
    plateau = _torch_run(e.ReduceOnPlateau(0.5, 3, 0.01), model, **names)["scheduler"]
    assert plateau.min_lrs == [pytest.approx(0.001)]
    assert plateau.patience == 3
    assert _torch_run(e.SetBatchSize(5), model, **names)["train_loader"].batch_size == 5
    assert _torch_run(e.ScaleInputs((1.0, 0.0), (2.0, 1.0)), model, **names)["x"].tolist() == [[0.0, 1.0]] * 3
    for edit in (
        e.ClipGradients("norm", 1.0),
        e.ClipGradients("value", 0.5),
        e.StopEarly(3),
        e.AddInputNoise(0.1),
        e.AddDropout(("0",), 0.3),
        e.SetOutputActivation("softmax"),
    ):
        _torch_run(edit, model, **names)


@pytest.mark.parametrize(
    "edit", [*(s for s in SETTINGS if s != SETTINGS[3]), e.ClipGradients("norm", 1.0), e.ClipGradients("value", 0.5)],
    ids=str,
)  # fmt: skip
def test_settings_in_keras_are_those_of_the_plan(edit: e.Edit) -> None:
    keras = pytest.importorskip("keras")

    def compiled() -> Any:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        return model

    model = compiled()
    _run(edit, "keras3", keras=keras, np=np, model=model)
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
    ids=str,
)
def test_the_rest_runs_in_keras(edit: e.Edit) -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    model.compile("sgd", "mse")
    x = np.array([[1.0, 0.0], [3.0, 4.0]])
    names = _run(edit, "keras3", keras=keras, np=np, model=model, x=x, x_train=x)
    if "loss" in names:
        model.compile("sgd", names["loss"])
        classes = isinstance(edit, e.SetLoss) and edit.name == "cross_entropy"
        assert np.isfinite(model.evaluate(x, np.array([0, 1]) if classes else np.ones((2, 2)), verbose=0))


TARGETS: list[e.Edit] = [
    e.ScaleTargets((3.0,), (2.0,)),
    e.EncodeTargets("zero_one"),
    e.EncodeTargets("zero_one", (-3.0, 1.0)),
    e.EncodeTargets("signed"),
    e.DropBadRows(1),
    e.WeightClasses((0.5, 2.0)),
    e.WeightClasses(),
]


@pytest.mark.parametrize("edit", TARGETS, ids=str)
def test_targets_in_both(edit: e.Edit) -> None:
    keras = pytest.importorskip("keras")
    x, y = np.array([[1.0, 0.0], [3.0, np.nan], [0.0, 0.0]]), np.array([[1.0], [-1.0], [1.0]])
    y = np.abs(y) if isinstance(edit, e.WeightClasses) else y
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    names = _run(edit, "keras3", keras=keras, np=np, model=model, x_train=x, y_train=y)
    tensors = {"x_train": torch.tensor(x), "y_train": torch.tensor(y), "y": torch.tensor(y)}
    other = _torch_run(edit, nn.Linear(2, 1), **tensors)
    if isinstance(edit, e.ScaleTargets | e.EncodeTargets):
        wanted = {"zero_one": [1, 0, 1], "signed": [1, -3, 1]}.get(getattr(edit, "to", ""), [-1, -2, -1])
        wanted = [1, 0.5, 1] if getattr(edit, "labels", ())[:1] == (-3.0,) else wanted
        assert names["y_train"].ravel().tolist() == other["y"].flatten().tolist() == wanted
    if isinstance(edit, e.DropBadRows):
        assert len(names["y_train"]) == len(other["y_train"]) == 2
    if isinstance(edit, e.WeightClasses):
        assert set(names["class_weight"]) == {0, 1} if edit.weights else {1}
        assert len(other["weights"]) == 2


def test_predictions_are_in_the_units_of_the_targets() -> None:
    edit, model, x = e.ScaleTargets((3.0, 0.0), (2.0, 5.0)), nn.Linear(4, 2), torch.randn(6, 4)
    pasted = _torch_run(edit, model, y=torch.ones(6, 2))
    assert pasted["y"][0].tolist() == pytest.approx([-1.0, 0.2])
    applied, _ = RepairPlan(("x",), (edit,)).apply(copy.deepcopy(model))
    assert torch.allclose(pasted["predict"](x), applied(x), atol=1e-6)


def test_classes_are_numbered_and_shapes_aligned() -> None:
    keras = pytest.importorskip("keras")
    numbered = e.NumberClasses((2, 5, 9))
    assert _torch_run(numbered, nn.Identity(), y=torch.tensor([9, 2, 5]))["y"].tolist() == [2, 0, 1]
    assert _run(numbered, "keras3", np=np, y_train=np.array([9, 2, 5]))["y_train"].tolist() == [2, 0, 1]
    y = torch.tensor([[0, 1], [1, 0]])
    assert _torch_run(e.EncodeTargets("index"), nn.Identity(), y=y)["y"].tolist() == [1, 0]
    hot = _torch_run(e.EncodeTargets("one_hot"), nn.Identity(), y=torch.tensor([1, 0]), z=torch.zeros(2, 2))
    assert hot["y"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert _torch_run(e.ReshapeTargets(), nn.Identity(), y=torch.ones(3), z=torch.ones(3, 1))["y"].shape == (3, 1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    names = {"np": np, "keras": keras, "model": model}
    assert _run(e.EncodeTargets("index"), "keras3", y_train=y.numpy(), **names)["y_train"].tolist() == [1, 0]
    assert _run(e.EncodeTargets("one_hot"), "keras3", y_train=np.array([1, 0]), **names)["y_train"].shape == (2, 2)
    assert _run(e.ReshapeTargets(), "keras3", y_train=np.ones(4).reshape(2, 2), **names)["y_train"].shape == (2, 2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(64)), 64)
    (mixed,) = next(iter(_torch_run(e.ShuffleData(), nn.Identity(), train_loader=loader)["train_loader"]))
    assert mixed.tolist() != sorted(mixed.tolist()) == list(range(64))
    _run(e.ShuffleData(), "keras3")


def test_what_hangs_on_the_optimizer_comes_after_what_makes_it_anew() -> None:
    edits = (e.DecayRate(steps=9), e.WarmUpRate(3), e.ReduceOnPlateau(), e.TuneAdam(0.95), e.SetWeightDecay(0.1),
             e.SetLearningRate(0.1), e.SwapOptimizer("adam", 0.2), e.Reinitialize(("0",), "he_uniform"))  # fmt: skip
    assert [type(edit) for edit in in_patch_order(edits)] == [
        e.Reinitialize, e.SetLearningRate, e.SwapOptimizer, e.SetWeightDecay, e.TuneAdam, e.ReduceOnPlateau,
        e.WarmUpRate, e.DecayRate,
    ]  # fmt: skip
    for framework, schedule in (("pytorch", "LambdaLR"), ("keras3", "CosineDecay")):
        text = str(RepairPlan(("x",), edits[:2], framework=framework))
        assert text.count(schedule) == 1, "one schedule, not two that undo each other"


def test_the_model_comes_before_the_optimizer() -> None:
    text = str(RepairPlan(("x",), (e.SwapOptimizer("adam", 1e-3), e.InsertNormalization(("0",)))))
    assert re.findall(r"^\d\. (\S+)", text, re.MULTILINE) == ["`0`:", "optimizer"]
    assert text.index("BatchNorm1d") < text.index("torch.optim.Adam")


# -- the course of a training -----------------------------------------------------------------------------------------


def test_warm_up_and_decay_in_pytorch() -> None:
    model = _torch_model()
    names = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "math": math}
    warm_up = _torch_run(e.WarmUpRate(4), model, **names)["warm_up"]
    rates = []
    for _ in range(5):
        rates.append(warm_up.get_last_lr()[0])
        names["optimizer"].step()
        warm_up.step()
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = _torch_run(e.DecayRate(0.1, steps=2), model, **names)["decay"]
    for wanted in (0.1, 0.055, 0.01):
        assert decay.get_last_lr()[0] == pytest.approx(wanted)
        names["optimizer"].step()
        decay.step()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(9, 4)), 2)
    assert _torch_run(e.DecayRate(), model, **names, epochs=3, train_loader=loader)["steps"] == 15


@pytest.mark.parametrize("edit", [e.TuneAdam(0.95, 1e-12, clip_updates=True), e.CompleteOptimizer(("6",))], ids=str)
def test_settings_of_optimizers_in_pytorch(edit: e.Edit) -> None:
    def owned(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model[:6].parameters(), lr=0.1)

    model, other = _torch_model(), _torch_model()
    pasted = _torch_run(edit, model, optimizer=owned(model))["optimizer"]
    _, applied = RepairPlan(("x",), (edit,)).apply(other, owned(other))
    assert _groups(pasted) == _groups(applied)
    assert len(pasted._optimizer_step_pre_hooks) == len(applied._optimizer_step_pre_hooks)


def test_guards_in_pytorch() -> None:
    model = _torch_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    names: dict[str, Any] = {"optimizer": optimizer}
    usual = _torch_run(e.SkipUpdates(6.0, 4), model, **names)["usual"]
    for factor, wanted in ((1.0, True), (1.1, True), (0.9, True), (1e4, False), (float("nan"), False), (1.0, True)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, factor)
        assert usual() is wanted
    optimizer.step()
    assert optimizer.state
    _torch_run(e.ResetOptimizerState(2), model, **names)
    assert not optimizer.state
    _torch_run(e.RestoreZeroGrad(), model, **names)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert _torch_run(e.ReviveUnits(("0", "2")), model)["hidden"] == [model[0], model[2]]
    _torch_run(e.SetMode(), model.eval())
    assert model.training
    _torch_run(e.RaisePrecision(), model.half())
    assert model[0].weight.dtype == torch.float32
    assert _torch_run(e.ExtendTraining(9), model)["epochs"] == 9
    look = _torch_run(e.Rollback(2.0, 0.5), model, **names, math=math)["look"]
    for loss, rate in ((1.0, 0.1), (0.5, 0.1), (0.9, 0.1), (1.1, 0.05), (float("nan"), 0.025)):
        look(loss)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate), "lowered again each time"


def _keras_model() -> Any:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="dense")])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    return model


@pytest.mark.parametrize(
    "edit",
    [e.WarmUpRate(4), e.DecayRate(0.1, steps=20), e.TuneAdam(0.95, 1e-5), e.TuneAdam(0.95, clip_updates=True)],
    ids=str,
)
def test_the_course_in_keras_is_that_of_the_plan(edit: e.Edit) -> None:
    import keras

    model = _keras_model()
    _run(edit, "keras3", keras=keras, np=np, model=model)
    _, optimizer = RepairPlan(("x",), (edit,), framework="keras3").apply(_keras_model())
    mine, wanted = ({**o.get_config(), "name": ""} for o in (model.optimizer, optimizer))
    assert str(mine) == str(wanted)
    assert ("update_step" in vars(model.optimizer)) is ("update_step" in vars(optimizer))
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)


def test_guards_in_keras() -> None:
    import keras

    model = _keras_model()
    x, y = np.ones((8, 4)), np.ones((8, 2))
    names = {"keras": keras, "np": np, "model": model}
    model.fit(x, y, verbose=0)
    _run(e.ResetOptimizerState(1), "keras3", **names)
    assert int(model.optimizer.iterations) == 0
    back = _run(e.Rollback(), "keras3", **names)["Rollback"]()
    model.fit(x, y, epochs=2, verbose=0, callbacks=[back])
    kept, rate = [np.array(w) for w in back.kept[:2]], float(model.optimizer.learning_rate)
    model.fit(x * np.nan, y, verbose=0, callbacks=[back])
    assert all(np.array_equal(a, b) for a, b in zip(kept, model.get_weights(), strict=True))
    assert float(model.optimizer.learning_rate) == pytest.approx(rate / 2)
    assert _run(e.ReviveUnits(("dense",)), "keras3", **names)["hidden"] == [model.layers[0]]
    assert _run(e.ExtendTraining(9), "keras3", **names)["epochs"] == 9
    assert _run(e.DecayRate(), "keras3", **names, epochs=3, steps_per_epoch=4)["steps"] == 12
    policy = keras.config.dtype_policy()
    try:
        _run(e.RaisePrecision(), "keras3", **names)
        assert keras.config.dtype_policy().name == "float32"
    finally:
        keras.config.set_dtype_policy(policy)
    for edit in (e.SkipUpdates(), e.CompleteOptimizer(), e.RestoreZeroGrad(), e.SetMode()):
        assert all(line.startswith("#") for line in lines(edit, "keras3")), "for the user's own hand"
