"""Edits of data and targets in managed trainings."""

from __future__ import annotations

import copy
import gc
import io
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autotrainer import edits as e
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.backends.pytorch.data.loaders import FiniteRowsLoader
from autotrainer.backends.pytorch.layers.modules import TargetScaling
from autotrainer.backends.pytorch.surgery.model_editor import apply_edits
from autotrainer.records.data import StreamData


def net(units: int = 1, *behind: nn.Module, inputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, units), *behind)


class TwoInputs(nn.Module):
    """Inputs in a dict, activations as functions, one layer used twice, one frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 1)
        self.a.requires_grad_(False)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        h = F.relu(self.a(x["one"])) + F.relu(self.a(x["two"]))
        out: torch.Tensor = self.out(F.relu(self.b(F.relu(self.b(h)))))
        return out


class Recurrent(nn.Module):
    """A recurrent layer over two steps of two features."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(2, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.rnn(x.reshape(-1, 2, 2))[0][:, -1])
        return out


@pytest.fixture
def numbers(managed: Any) -> dict[str, Any]:
    """Regression on targets around 50,000 with a standard deviation of 2,000."""
    y = (2_000 * (managed.x[:, :1] - managed.x[:, 1:2]) / np.sqrt(2) + 50_000).astype(np.float32)
    return {
        "train": (managed.x[:200], y[:200]),
        "validation": (managed.x[200:], y[200:]),
        "loss": nn.MSELoss(),
        "optimizer": lambda params: torch.optim.Adam(params, 1e-2),
    }


def r2(trained: Any, data: Any) -> float:
    x, y = data
    return float(1 - np.mean((trained.predict(x).reshape(-1) - y.reshape(-1)) ** 2) / y.var())


# -- scaled targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), lambda o, t: ((o - t) ** 2).mean()])
def test_predictions_of_scaled_targets_are_in_original_units(managed: Any, numbers: Any, loss: Any) -> None:
    given = {**numbers, "loss": loss}
    plain, _ = managed.train(net(), epochs=15, **given)
    trained, run = managed.train(net(), e.ScaleTargets(), epochs=15, **given)
    assert r2(plain, given["validation"]) < 0
    assert r2(trained, given["validation"]) > 0.8
    y = given["train"][1]
    assert trained.edits[0].mean == pytest.approx((float(y.mean()),), rel=1e-6)
    assert trained.edits[0].std == pytest.approx((float(y.std()),), rel=1e-4)
    first = run.monitor.history
    assert abs(first.targets.mean) < 0.2, "the monitor sees what the loss sees"
    assert first.targets.variance == pytest.approx(1, abs=0.2)


def test_original_loss_is_in_user_units_and_trained_loss_is_scaled(managed: Any, numbers: Any) -> None:
    trained, run = managed.train(net(), e.ScaleTargets(), epochs=5, **numbers)
    x, y = numbers["validation"]
    errors = trained.predict(x) - y
    evaluation = run.ends[-1][2]
    assert evaluation.loss == pytest.approx(np.mean(errors**2), rel=1e-3)
    assert evaluation.training_loss == pytest.approx(np.mean(errors**2) / trained.edits[0].std[0] ** 2, rel=1e-3)
    np.testing.assert_array_equal(evaluation.targets, y)


def test_targets_over_decades_are_learned_as_logarithms(managed: Any, numbers: Any) -> None:
    x = managed.x
    y = np.exp(8 + 3 * x[:, :1]).astype(np.float32)
    given = {**numbers, "train": (x[:200], y[:200]), "validation": (x[200:], y[200:]), "loss": nn.MSELoss()}
    trained, run = managed.train(net(), e.ScaleTargets(logarithm=True), epochs=40, **given)
    edit = trained.edits[0]
    predictions = trained.predict(x[200:])
    assert np.mean(np.abs(np.log(predictions.clip(1) / y[200:]))) < 1.0
    assert predictions.max() <= y[:200].max() * 1.01
    logarithms = [np.arcsinh(each / edit.log_scale[0]) for each in (predictions, y[200:])]
    wanted = np.mean((logarithms[0] - logarithms[1]) ** 2) / edit.std[0] ** 2
    assert run.ends[-1][2].training_loss == pytest.approx(wanted, rel=1e-3)
    fresh = net()
    inputs = torch.tensor(x[:8], dtype=torch.float32)
    inner = fresh(inputs).detach()
    repeated, _ = apply_edits(trained.edits, fresh, None)
    grown = edit.log_scale[0] * torch.sinh(inner * edit.std[0] + edit.mean[0])
    assert torch.allclose(repeated(inputs), grown, rtol=1e-4)
    assert managed.trainer(net(), **numbers).supports(e.ScaleTargets(logarithm=True)).reason


def test_units_need_more_than_half_precision() -> None:
    half = TargetScaling(nn.Linear(4, 1).to(torch.bfloat16), (50_000.0,), (2_000.0,))
    out = half(torch.randn(8, 4, dtype=torch.bfloat16))
    assert out.dtype is torch.float32
    assert len(out.unique()) == 8


def test_target_columns_are_scaled_separately(managed: Any, numbers: Any) -> None:
    y = np.c_[managed.x[:, 0] * 500, managed.x[:, 1] * 1e-2 + 300].astype(np.float32)
    given = {**numbers, "train": (managed.x[:200], y[:200]), "validation": (managed.x[200:], y[200:])}
    trained, _ = managed.train(net(2), e.ScaleTargets(), epochs=30, **given)
    wrong = ((trained.predict(managed.x[200:]) - y[200:]) ** 2).mean(0) / y[200:].var(0)
    assert (wrong < 0.3).all()


@pytest.mark.parametrize("build", [TwoInputs, Recurrent])
def test_models_of_any_kind_are_scaled_and_frozen_layers_stay_frozen(managed: Any, numbers: Any, build: Any) -> None:
    torch.manual_seed(0)
    model = build()
    given = dict(numbers)
    if build is TwoInputs:
        for name in ("train", "validation"):
            x, y = given[name]
            given[name] = ({"one": x[:, :2].astype(np.float32), "two": x[:, 2:].astype(np.float32)}, y)
    before = copy.deepcopy(model.state_dict())
    trained, _ = managed.train(model, e.ScaleTargets(), epochs=15, keep=("out",), **given)
    x, y = given["validation"]
    assert 1 - np.mean((trained.predict(x) - y) ** 2) / y.var() > 0
    if build is TwoInputs:
        assert torch.equal(trained.model.module.a.weight, before["a.weight"])
    assert not torch.equal(trained.model.module.out.weight, before["out.weight"]), "kept is not frozen"


def test_scaled_model_can_be_copied_saved_and_planned(managed: Any, numbers: Any) -> None:
    trained, _ = managed.train(net(1, nn.Sigmoid()), e.SetOutputActivation("linear"), e.ScaleTargets(), **numbers)
    x = torch.tensor(managed.x[:8], dtype=torch.float32)
    expected = trained.model(x)
    buffer = io.BytesIO()
    torch.save(copy.deepcopy(trained.model), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x), expected)
    fresh = net(1, nn.Sigmoid())
    inner = fresh[:3](x).detach()
    repeated, optimizer = apply_edits(trained.edits, fresh, torch.optim.SGD(fresh.parameters(), 0.1))
    mean, std = trained.edits[-1].mean[0], trained.edits[-1].std[0]
    assert torch.allclose(repeated(x), inner * std + mean)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4


# -- encoded, numbered and reshaped targets ------------------------------------------------------------------------


def labelled(managed: Any, train: Any, **options: Any) -> dict[str, Any]:
    return {"train": (managed.x[:200], train[:200]), "validation": (managed.x[200:], train[200:]), **options}


@pytest.mark.parametrize(
    ("labels", "edit", "loss", "behind"),
    [
        (lambda y: np.eye(2, dtype=np.int64)[y], e.EncodeTargets("index"), nn.NLLLoss(), [nn.LogSoftmax(1)]),
        (lambda y: y[:, None], e.EncodeTargets("index"), nn.CrossEntropyLoss(), []),
        (lambda y: y.astype(np.float32), e.EncodeTargets("index"), nn.CrossEntropyLoss(label_smoothing=0.1), []),
        (lambda y: y + 1, e.NumberClasses(), nn.CrossEntropyLoss(), []),
        (lambda y: 7 * y + 5, e.NumberClasses(), nn.CrossEntropyLoss(), []),
        (lambda y: 7 * y + 5, e.NumberClasses(fill=-1e4), nn.NLLLoss(), [nn.LogSoftmax(1)]),
    ],
)
def test_encoded_classes_reach_the_loss(managed: Any, labels: Any, edit: Any, loss: Any, behind: Any) -> None:
    given = labelled(managed, labels(managed.y), loss=loss)
    trained, run = managed.train(net(2, *behind), edit, epochs=25, **given)
    assert all(np.isfinite(values["loss"]) for _, values, _ in run.ends)
    plain, _ = managed.train(net(2, *behind), epochs=25, loss=loss)
    answers, wanted = trained.predict(managed.x[200:]).argmax(1), labels(np.array([0, 1]))
    if isinstance(edit, e.NumberClasses):
        assert set(answers) <= set(wanted.tolist()), "answers are the user's labels"
        answers = np.searchsorted(wanted, answers)
    np.testing.assert_array_equal(answers, plain.predict(managed.x[200:]).argmax(1))


@pytest.mark.parametrize(
    ("labels", "to", "loss"),
    [
        (lambda y: 2.0 * y - 1, "zero_one", nn.BCEWithLogitsLoss()),
        (lambda y: 1.0 * y, "signed", nn.SoftMarginLoss()),
    ],
)
def test_encoded_binary_labels_reach_the_loss(managed: Any, labels: Any, to: Any, loss: Any) -> None:
    given = labelled(managed, labels(managed.y)[:, None].astype(np.float32), loss=loss)
    trained, _ = managed.train(net(1), e.EncodeTargets(to), epochs=25, **given)
    assert np.mean((trained.predict(managed.x[200:])[:, 0] > 0) == managed.y[200:]) > 0.85


def test_probability_lies_between_two_labels(managed: Any) -> None:
    given = labelled(managed, (managed.y + 1.0)[:, None].astype(np.float32), loss=nn.BCELoss())
    edit = e.ScaleTargets((1.0,), (1.0,))
    assert managed.trainer(net(1, nn.Sigmoid()), **given).supports(edit)
    trained, _ = managed.train(net(1, nn.Sigmoid()), edit, epochs=25, **given)
    answers = trained.predict(managed.x[200:])[:, 0]
    assert ((answers > 1) & (answers < 2)).all()
    assert np.mean((answers > 1.5) == managed.y[200:]) > 0.85


def test_missing_values_do_not_rule_out_other_repairs(managed: Any, numbers: Any) -> None:
    x, y = numbers["train"]
    holes = (x.copy(), y.copy())
    holes[0][0, 0] = holes[1][1] = np.nan
    given = {**numbers, "train": holes}
    assert managed.trainer(net(), **given).supports(e.ScaleTargets())
    trained, _ = managed.train(net(), e.DropBadRows(), e.ScaleTargets(), epochs=15, **given)
    assert r2(trained, given["validation"]) > 0.8


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.HuberLoss(), lambda o, t: ((o - t) ** 2).mean()])
@pytest.mark.parametrize("flat_output", [False, True])
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # it is the fault
def test_reshaped_targets_are_learned(managed: Any, loss: Any, flat_output: bool) -> None:
    y = managed.x[:, 0] - managed.x[:, 1]
    y = (y[:, None] if flat_output else y).astype(np.float32)
    model = net(1, nn.Flatten(0)) if flat_output else net(1)
    given = labelled(managed, y, loss=loss)
    plain, _ = managed.train(copy.deepcopy(model), epochs=15, **given)
    trained, _ = managed.train(model, e.ReshapeTargets(), epochs=15, **given)
    assert r2(plain, given["validation"]) < 0.3
    assert r2(trained, given["validation"]) > 0.85


def test_set_loss_takes_targets_of_any_form(managed: Any) -> None:
    spec = TrainingSpec(1, 0, (e.EncodeTargets("index"), e.ReshapeTargets(), e.SetLearningRate(0.1)))
    loss = e.SetLoss("cross_entropy", "logits")
    assert spec.with_edits((loss,)).edits == (e.SetLearningRate(0.1), loss)
    trained, _ = managed.train(net(2), e.EncodeTargets("index"), loss, epochs=1)
    assert np.isfinite(trained.predict(managed.x)).all()


# -- rows ---------------------------------------------------------------------------------------------------------


def with_holes(managed: Any, targets: bool) -> tuple[np.ndarray, np.ndarray]:
    x, y = managed.x[:200].astype(np.float32), (managed.x[:200, :1] - managed.x[:200, 1:2]).astype(np.float32)
    (y if targets else x)[::29, 0] = np.nan
    x[40, 2] = np.inf
    return x, y


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("as_loader", [False, True])
def test_nonfinite_rows_are_dropped_and_counted(managed: Any, targets: bool, as_loader: bool) -> None:
    x, y = with_holes(managed, targets)
    held = (managed.x[200:], (managed.x[200:, :1] - managed.x[200:, 1:2]).astype(np.float32))
    train: Any = (x, y)
    if as_loader:
        train = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), 32, shuffle=True)
    given = {"train": train, "validation": held, "loss": nn.MSELoss()}
    trained, run = managed.train(net(), e.DropBadRows(), epochs=12, **given)
    assert trained.edits == (e.DropBadRows(8),)
    assert run.trained == 12 * (200 - 8)
    assert r2(trained, held) > 0.8


def test_nonfinite_rows_with_a_custom_step(managed: Any) -> None:
    x, y = with_holes(managed, targets=False)
    loader = DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), 32)

    def step(model: nn.Module, batch: Any) -> tuple[Any, Any, Any]:
        out = model(batch[0])
        return F.mse_loss(out, batch[1]), out, batch[1]

    given = {"train": loader, "validation": loader, "loss": None, "step": step}
    trained, run = managed.train(net(), e.DropBadRows(), epochs=2, **given)
    assert run.trained == 2 * (200 - 8)
    assert all(bool(torch.isfinite(p).all()) for p in trained.model.parameters())


def test_finite_rows_loader_delegates_to_the_loader() -> None:
    loader = DataLoader(TensorDataset(torch.tensor([[1.0], [torch.nan], [3.0]]), torch.arange(3)), 1)
    clean = FiniteRowsLoader(loader)
    assert len(clean) == 3
    assert clean.batch_size == 1
    assert [int(y) for _, y in clean] == [0, 2]


def test_loaders_are_shuffled_in_each_epoch_by_seed(managed: Any) -> None:
    x = torch.arange(64.0)[:, None]
    seen: list[list[float]] = []

    class Notes(nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen[-1].extend(values[:, 0].tolist())
            return super().forward(values)

    loader = DataLoader(TensorDataset(x, x), 16)
    for _ in range(2):
        seen.append([])
        managed.train(
            Notes(1, 1), e.ShuffleData(), e.SetBatchSize(8), train=loader, validation=loader, loss=nn.MSELoss(),
            optimizer=lambda params: torch.optim.SGD(params, 1e-6), epochs=2,
        )  # fmt: skip
    assert seen[0] == seen[1]
    first, second = seen[0][-128:-64], seen[0][-64:]
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != second
    assert first != sorted(first)


def test_weighted_classes_count_equally(managed: Any) -> None:
    x = managed.x.astype(np.float32)
    y = (x[:, 0] > 1.3).astype(np.int64)
    given = labelled(managed, y, optimizer=lambda params: torch.optim.SGD(params, 0.05))
    plain, _ = managed.train(net(2), epochs=6, **given)
    trained, _ = managed.train(net(2), e.WeightClasses(), epochs=6, **given)
    rare, share = y[:200].sum(), 200
    assert trained.edits[0].weights == pytest.approx((share / (2 * (share - rare)), share / (2 * rare)))
    found = [model.predict(x[200:]).argmax(1)[y[200:] == 1].mean() for model in (plain, trained)]
    assert found[0] < 0.5 < found[1]


@pytest.mark.parametrize("form", ["index", "zero_one"])
def test_class_weights_replace_those_of_the_loss(managed: Any, form: str) -> None:
    y = (managed.x[:, 0] > 0.8).astype(np.int64)
    units, own = 2, (nn.CrossEntropyLoss(torch.tensor([5.0, 0.1])), nn.CrossEntropyLoss())
    if form == "zero_one":
        units, y = 1, y[:, None].astype(np.float32)
        own = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(0.1)), nn.BCEWithLogitsLoss()
    first, second = (
        managed.train(net(units), e.WeightClasses(), epochs=1, **labelled(managed, y, loss=loss))[0].predict(managed.x)
        for loss in own
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("form", ["index", "column", "one_hot", "signed", "zero_one"])
def test_class_weights_equal_those_of_pytorch_losses(managed: Any, form: str) -> None:
    y = (managed.x[:, 0] > 0.8).astype(np.int64)
    targets = {
        "index": y,
        "column": y[:, None],
        "one_hot": np.eye(2, dtype=np.float32)[y],
        "signed": (2.0 * y - 1)[:, None].astype(np.float32),
        "zero_one": y[:, None].astype(np.float32),
    }[form]
    loss = {"signed": nn.SoftMarginLoss(), "zero_one": nn.BCEWithLogitsLoss()}.get(form, nn.CrossEntropyLoss())
    edits = (e.EncodeTargets("index"),) if form == "column" else ()
    given = labelled(managed, targets, loss=loss)
    units = 1 if form in ("signed", "zero_one") else 2
    trained, _ = managed.train(net(units), *edits, e.WeightClasses((0.5, 3.0)), epochs=2, **given)
    if form in ("index", "column"):
        own = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 3.0]))
        other, _ = managed.train(net(2), epochs=2, **labelled(managed, y, loss=own))
        np.testing.assert_allclose(trained.predict(managed.x), other.predict(managed.x), atol=1e-4)
    else:
        other, _ = managed.train(net(units), e.WeightClasses((1.0, 1.0)), epochs=2, **given)
        yes = [
            m.predict(managed.x)[:, -1].mean() - m.predict(managed.x)[:, 0].mean() * (units > 1)
            for m in (trained, other)
        ]
        assert yes[0] > yes[1], "the class that counts more is answered more"


# -- refusals -----------------------------------------------------------------------------------------------------


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        yield from ((torch.zeros(4), torch.tensor(0)) for _ in range(8))


def own_step(model: nn.Module, batch: Any) -> Any:
    return F.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("edit", "options", "reason"),
    [
        (e.ScaleTargets(), {}, "by their difference"),
        (e.ScaleTargets(), {"loss": nn.PoissonNLLLoss()}, "by their difference"),
        (e.ScaleTargets(), {"loss": None, "step": own_step}, "own step"),
        (e.EncodeTargets("index"), {"loss": None, "step": own_step}, "own step"),
        (e.NumberClasses(), {}, "from 0 already"),
        (e.NumberClasses(), {"loss": nn.MSELoss()}, "takes no class numbers"),
        (e.ReshapeTargets(), {}, "do not fit"),
        (e.ShuffleData(), {}, "shuffled in each epoch already"),
        (e.DropBadRows(), {}, "are finite"),
        (e.WeightClasses(), {"loss": None, "step": own_step}, "own step"),
    ],
)
def test_refusals_have_a_reason(managed: Any, edit: e.Edit, options: dict[str, Any], reason: str) -> None:
    support = managed.trainer(net(2), **options).supports(edit)
    assert not support
    assert reason in support.reason


def test_loaders_that_can_not_be_shuffled(managed: Any) -> None:
    pairs = TensorDataset(torch.zeros(8, 4), torch.arange(8) % 2)
    for loader, reason in (
        (DataLoader(pairs, 4, shuffle=True), "shuffles already"),
        (DataLoader(Stream(), 4), "iterable data set"),
        (StreamData([(torch.zeros(4, 4), torch.zeros(4).long())]), "makes its batches by itself"),
    ):
        support = managed.trainer(net(2), train=loader, validation=loader).supports(e.ShuffleData())
        assert reason in support.reason


def test_too_many_nonfinite_rows_are_refused(managed: Any) -> None:
    x = managed.x[:200].astype(np.float32)
    x[:120, 0] = np.nan
    support = managed.trainer(net(2), train=(x, managed.y[:200])).supports(e.DropBadRows())
    assert "120 of 200" in support.reason


def test_targets_without_classes_have_no_weights(managed: Any) -> None:
    given = labelled(managed, managed.x[:, :1].astype(np.float32), loss=nn.MSELoss())
    assert "real numbers" in managed.trainer(net(1), **given).supports(e.WeightClasses()).reason
    single = labelled(managed, np.zeros(260, np.int64))
    assert "single class" in managed.trainer(net(2), **single).supports(e.WeightClasses()).reason


@pytest.mark.parametrize("loader", [False, True])
def test_a_refused_edit_never_restores_random_states_later(managed: Any, loader: bool) -> None:
    x, y = torch.randn(64, 4), torch.randn(64, 1)
    data: Any = DataLoader(TensorDataset(x, y), 32) if loader else (x.numpy(), y.numpy())
    trainer = managed.trainer(nn.Linear(4, 1), train=data, loss=nn.MSELoss())
    assert not trainer.supports(e.WeightClasses())
    torch.manual_seed(5)
    state = torch.get_rng_state()
    del trainer
    gc.collect()
    assert torch.equal(torch.get_rng_state(), state)
