"""Lines of PyTorch code run as they stand, and do what `RepairPlan.apply` does."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.backends.pytorch.patches.patch import patch
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


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Identity(), nn.ReLU(),
        nn.Linear(8, 2),
    )  # fmt: skip


def _run(edit: e.Edit, model: nn.Module, **names: Any) -> dict[str, Any]:
    names |= {"torch": torch, "nn": nn, "copy": copy, "model": model}
    exec("\n".join(patch(edit)), names)
    return names


def _groups(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    found = []
    for group in optimizer.param_groups:
        settings = {k: v for k, v in group.items() if k != "params"}
        found += [(tuple(p.shape), sorted(settings.items(), key=str)) for p in group["params"]]
    return sorted(found, key=str)


@pytest.mark.parametrize("edit", SETTINGS, ids=repr)
def test_settings_equal_those_of_the_plan(edit: e.Edit) -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.001)
    pasted = _run(edit, model, optimizer=optimizer)["optimizer"]
    other = _model()
    plan = RepairPlan(("x",), (edit,))
    _, applied = plan.apply(other, torch.optim.SGD(other.parameters(), lr=0.1, weight_decay=0.001))
    assert type(pasted) is type(applied)
    assert _groups(pasted) == _groups(applied)


@pytest.mark.parametrize("to", ["selu", "leaky_relu", "tanh", "thresholded_relu"])
def test_swapped_activations(to: Any) -> None:
    edit = e.SwapActivation(NAMES, to, reinitialize=False)
    model = _model()
    _run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(_model())
    x = torch.randn(16, 4)
    assert torch.equal(model.eval()(x), applied.eval()(x))
    redrawn = _model()
    _run(e.SwapActivation(NAMES, to), redrawn)
    assert (redrawn[3].weight == 1).all(), "normalization stays as it is"
    assert not redrawn[2].bias.any()
    assert not torch.equal(redrawn[2].weight, _model()[2].weight)


def test_new_weights() -> None:
    model = nn.ModuleDict({"rnn": nn.LSTM(4, 8), "dense": nn.Linear(8, 2, bias=False)})
    _run(e.Reinitialize(("rnn", "dense"), "orthogonal"), model)
    weight = model["dense"].weight
    assert torch.allclose(weight @ weight.T, torch.eye(2), atol=1e-5)
    assert not model["rnn"].bias_hh_l0.any()


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_normalization(kind: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 2))
    given = copy.deepcopy(model)
    edit = e.InsertNormalization(("0", "3"), kind)
    _run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(given)
    x = torch.randn(8, 1, 4, 4)
    assert torch.allclose(model.train()(x), applied.train()(x), atol=1e-6)
    assert isinstance(model[0], nn.Sequential)
    assert isinstance(model[3], nn.Sequential)


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
@pytest.mark.parametrize("dimensions", [1, 3])
def test_normalization_of_any_convolution(kind: Any, dimensions: int) -> None:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    model = nn.Sequential(convolution(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(8, 1, *[4] * dimensions)
    model(x)
    given, edit = copy.deepcopy(model), e.InsertNormalization(("0",), kind)
    _run(edit, model)
    applied, _ = RepairPlan(("x",), (edit,)).apply(given)
    assert torch.allclose(model.train()(x), applied.train()(x), atol=1e-6)


def test_activations_called_as_functions_are_left_to_the_user() -> None:
    called = patch(e.SwapActivation(("a", "b"), "elu", calls=(0, 1)))
    assert called[0] == "# in forward, where it calls these layers' activation as a function:  nn.ELU()(…)"
    assert not patch(e.SwapActivation(("a",), "elu"))[0].startswith("#")


@pytest.mark.parametrize(
    "edit",
    [
        e.SetLoss("cross_entropy", "logits"),
        e.SetLoss("cross_entropy", "probabilities"),
        e.SetLoss("cross_entropy", "log_probabilities"),
    ],
    ids=repr,
)
def test_losses(edit: e.SetLoss) -> None:
    z, y = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    made = {"logits": z, "probabilities": z.softmax(1), "log_probabilities": z.log_softmax(1)}[edit.expects]
    loss = _run(edit, nn.Identity())["loss_fn"]
    assert torch.allclose(loss(made, y), nn.functional.cross_entropy(z, y), atol=1e-5)
    for targets in (y.float()[:, None], y.int(), nn.functional.one_hot(y)):
        assert torch.allclose(loss(made, targets), nn.functional.cross_entropy(z, y), atol=1e-5)


@pytest.mark.parametrize("steps", [3, 5])
def test_cross_entropy_of_sequences_takes_classes_in_the_last_dimension_where_no_other_fits(steps: int) -> None:
    z, y = torch.randn(4, 3, steps), torch.randint(3, (4, steps))
    loss = _run(e.SetLoss("cross_entropy", "logits"), nn.Identity())["loss_fn"]
    assert torch.allclose(loss(z, y), nn.functional.cross_entropy(z, y))
    if steps != 3:
        assert torch.allclose(loss(z.movedim(1, -1), y), nn.functional.cross_entropy(z, y))


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
def test_losses_take_targets_of_any_form(edit: e.SetLoss, wanted: Any) -> None:
    """A flat vector of targets against a column of outputs is what such a repair mends."""
    outputs, labels = torch.rand(6, 1), torch.tensor([1, 1, 0, 1, 0, 1])
    loss = _run(edit, nn.Identity())["loss_fn"]
    assert torch.equal(loss(outputs, labels), wanted(outputs, labels[:, None].float()))


def test_other_settings_run() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(9, 4)), 2)
    model(torch.ones(3, 4)).sum().backward()
    names = {"optimizer": optimizer, "train_loader": loader, "x": torch.ones(3, 2)}
    plateau = _run(e.ReduceOnPlateau(0.5, 3, 0.01), model, **names)["scheduler"]
    assert plateau.min_lrs == [pytest.approx(0.001)]
    assert plateau.patience == 3
    assert _run(e.SetBatchSize(5), model, **names)["train_loader"].batch_size == 5
    assert _run(e.ScaleInputs((1.0, 0.0), (2.0, 1.0)), model, **names)["x"].tolist() == [[0.0, 1.0]] * 3
    for edit in (
        e.ClipGradients("norm", 1.0),
        e.ClipGradients("value", 0.5),
        e.StopEarly(3),
        e.AddInputNoise(0.1),
        e.AddDropout(("0",), 0.3),
        e.SetOutputActivation("softmax"),
    ):
        _run(edit, model, **names)


def test_numbers_for_missing_values_are_replaced() -> None:
    edit = e.ScaleInputs((1.0, 0.0), (2.0, 1.0), missing_columns=(0,), missing_values=(-999.0,), missing_fills=(-3.0,))
    x = torch.tensor([[-999.0, -999.0], [3.0, 2.0]])
    assert _run(edit, nn.Identity(), x=x)["x"].tolist() == [[-3.0, -999.0], [1.0, 2.0]]
    assert x[0, 0] == -999


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
    x, y = torch.tensor([[1.0, 0.0], [3.0, math.nan], [0.0, 0.0]]), torch.tensor([[1.0], [-1.0], [1.0]])
    y = y.abs() if isinstance(edit, e.WeightClasses) else y
    names = _run(edit, nn.Linear(2, 1), x_train=x, y_train=y, y=y)
    if isinstance(edit, e.ScaleTargets | e.EncodeTargets):
        wanted = {"zero_one": [1, 0, 1], "signed": [1, -3, 1]}.get(getattr(edit, "to", ""), [-1, -2, -1])
        wanted = [1, 0.5, 1] if getattr(edit, "labels", ())[:1] == (-3.0,) else wanted
        assert names["y"].flatten().tolist() == wanted
    if isinstance(edit, e.DropBadRows):
        assert len(names["y_train"]) == 2
    if isinstance(edit, e.WeightClasses):
        assert len(names["weights"]) == 2


def test_numbers_far_larger_than_their_scale_keep_their_digits() -> None:
    center, x = 1_600_000_123.0, torch.tensor([[1_600_000_223.0, 3.0]], dtype=torch.float64)
    torch.set_default_dtype(torch.float64)
    try:
        for edit, wanted in (
            (e.ScaleInputs((center, 1.0), (100.0, 2.0)), 1.0),
            (e.ScaleInputs((0.0, 1.0), (1.0, 2.0), (center, 0.0), (100.0, 0.0)), math.asinh(1.0)),
        ):
            assert _run(edit, nn.Identity(), x=x)["x"][0].tolist() == pytest.approx([wanted, 1.0], abs=1e-5)
        assert _run(e.ScaleTargets((center,), (100.0,)), nn.Identity(), y=x[:, :1])["y"].item() == pytest.approx(1.0)
    finally:
        torch.set_default_dtype(torch.float32)


def test_predictions_are_in_the_units_of_the_targets() -> None:
    edit, model, x = e.ScaleTargets((3.0, 0.0), (2.0, 5.0)), nn.Linear(4, 2), torch.randn(6, 4)
    pasted = _run(edit, model, y=torch.ones(6, 2))
    assert pasted["y"][0].tolist() == pytest.approx([-1.0, 0.2])
    applied, _ = RepairPlan(("x",), (edit,)).apply(copy.deepcopy(model))
    assert torch.allclose(pasted["predict"](x), applied(x), atol=1e-6)


@pytest.mark.parametrize("scales", [(10.0, 0.0), (10.0, 4.0)])
def test_targets_on_a_logarithmic_scale(scales: tuple[float, float]) -> None:
    edit = e.ScaleTargets((3.0, 1.0), (2.0, 5.0), True, (0.0, 1.0), scales, (1.5, 1.0))
    model, x, y = nn.Linear(4, 2), 5 * torch.randn(6, 4), torch.tensor([[50.0, 6.0]])
    pasted = _run(edit, model, y=y)
    second = math.asinh(5 / 4) if scales[1] else 6.0
    assert pasted["y"][0].tolist() == pytest.approx([(math.asinh(5.0) - 3) / 2, (second - 1) / 5])
    applied, _ = RepairPlan(("x",), (edit,)).apply(copy.deepcopy(model))
    assert torch.allclose(pasted["predict"](x), applied.eval()(x), rtol=1e-4), "a linear column is not limited"


def test_classes_are_numbered_and_shapes_aligned() -> None:
    numbered = e.NumberClasses((2, 5, 9))
    assert _run(numbered, nn.Identity(), y=torch.tensor([9, 2, 5]))["y"].tolist() == [2, 0, 1]
    y = torch.tensor([[0, 1], [1, 0]])
    assert _run(e.EncodeTargets("index"), nn.Identity(), y=y)["y"].tolist() == [1, 0]
    one_hot = _run(e.EncodeTargets("one_hot"), nn.Identity(), y=torch.tensor([1, 0]), z=torch.zeros(2, 2))
    assert one_hot["y"].tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert _run(e.ReshapeTargets(), nn.Identity(), y=torch.ones(3), z=torch.ones(3, 1))["y"].shape == (3, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.arange(64)), 64)
    (mixed,) = next(iter(_run(e.ShuffleData(), nn.Identity(), train_loader=loader)["train_loader"]))
    assert mixed.tolist() != sorted(mixed.tolist()) == list(range(64))


# -- schedules and safeguards -----------------------------------------------------------------------------------------


def test_warm_up_and_decay() -> None:
    model = _model()
    names = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "math": math}
    warm_up = _run(e.WarmUpRate(4), model, **names)["warm_up"]
    rates = []
    for _ in range(5):
        rates.append(warm_up.get_last_lr()[0])
        names["optimizer"].step()
        warm_up.step()
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    decay = _run(e.DecayRate(0.1, steps=2), model, **names)["decay"]
    for wanted in (0.1, 0.055, 0.01):
        assert decay.get_last_lr()[0] == pytest.approx(wanted)
        names["optimizer"].step()
        decay.step()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(9, 4)), 2)
    assert _run(e.DecayRate(), model, **names, epochs=3, train_loader=loader)["steps"] == 15


@pytest.mark.parametrize("edit", [e.TuneAdam(0.95, 1e-12, clip_updates=True), e.CompleteOptimizer(("6",))], ids=repr)
def test_settings_of_optimizers(edit: e.Edit) -> None:
    def owned(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model[:6].parameters(), lr=0.1)

    model, other = _model(), _model()
    pasted = _run(edit, model, optimizer=owned(model))["optimizer"]
    _, applied = RepairPlan(("x",), (edit,)).apply(other, owned(other))
    assert _groups(pasted) == _groups(applied)
    assert len(pasted._optimizer_step_pre_hooks) == len(applied._optimizer_step_pre_hooks)


def test_safeguards() -> None:
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    names: dict[str, Any] = {"optimizer": optimizer}
    should_step = _run(e.SkipUpdates(6.0, 4), model, **names)["should_step"]
    for factor, wanted in ((1.0, True), (1.1, True), (0.9, True), (1e4, False), (float("nan"), False), (1.0, True)):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, factor)
        assert should_step() is wanted
    optimizer.step()
    assert optimizer.state
    _run(e.ResetOptimizerState(2), model, **names)
    assert not optimizer.state
    _run(e.RestoreZeroGrad(), model, **names)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert _run(e.ReviveUnits(("0", "2")), model)["hidden"] == [model[0], model[2]]
    _run(e.SetMode(), model.eval())
    assert model.training
    _run(e.RaisePrecision(), model.half())
    assert model[0].weight.dtype == torch.float32
    assert _run(e.ExtendTraining(9), model)["epochs"] == 9
    check_epoch = _run(e.Rollback(2.0, 0.5), model, **names, math=math)["check_epoch"]
    for loss, rate in ((1.0, 0.1), (0.5, 0.1), (0.9, 0.1), (1.1, 0.05), (float("nan"), 0.025)):
        check_epoch(loss)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate), "lowered again each time"
