"""`fit` and `Loop` on tiny data, and with losses of which nothing else is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import autotrainer
from autotrainer.adapter.spec import FitRequest
from autotrainer.api.fit_data import validates_on_training_rows
from autotrainer.backends.pytorch.backend import PyTorchBackend
from autotrainer.backends.pytorch.data.batches import LoaderBatches
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.training.evaluation import losses_with_mean_outputs
from autotrainer.errors import DataError
from autotrainer.records.data import normalize

CPU = torch.device("cpu")
XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0], [1], [1], [0]], np.float32)
ROW = np.array([[0.3, -0.2, 0.7]], np.float32), np.array([[1.5]], np.float32)
GOOD, LOW, HIGH = 0.02, 2e-5, 20.0


def _torch(features: int, rate: float, loss: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = [nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()]
        model = nn.Sequential(*hidden, nn.Linear(8, 1))
    losses = {"bce": nn.BCEWithLogitsLoss(), "mse": nn.MSELoss()}
    return {"model": model, "optimizer": torch.optim.Adam(model.parameters(), rate), "loss": losses[loss]}


def _keras(features: int, rate: float, loss: str) -> dict[str, Any]:
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(8, "relu", kernel_initializer=keras.initializers.HeUniform(seed)) for seed in (3, 4)]
    model = keras.Sequential([keras.Input((features,)), *hidden, keras.layers.Dense(1)])
    losses = {"bce": keras.losses.BinaryCrossentropy(from_logits=True), "mse": "mse"}
    return {"model": model, "optimizer": keras.optimizers.Adam(rate), "loss": losses[loss]}


@pytest.fixture(params=["pytorch", "keras3"])
def make(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    return {"pytorch": _torch, "keras3": _keras}[request.param]


def _fit(arguments: dict[str, Any], *data: Any, **options: Any) -> autotrainer.Result:
    return autotrainer.fit(arguments.pop("model"), *data, **arguments, **{"progress": False, "budget": 3.0} | options)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "rate"), [(_torch, LOW), (_torch, HIGH), (_keras, HIGH)])
def test_truth_table_is_repaired(make: Callable[..., dict[str, Any]], rate: float) -> None:
    result = _fit(make(2, rate, "bce"), XOR, epochs=300)
    assert (result.status, result.judged_on, result.metric, result.score) == ("repaired", "training", "accuracy", 1.0)
    assert result.cost <= 3


@pytest.mark.slow
def test_truth_table_with_a_good_rate_is_healthy(make: Callable[..., dict[str, Any]]) -> None:
    result = _fit(make(2, GOOD, "bce"), XOR, epochs=300)
    assert (result.status, result.score) == ("healthy", 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "rate", "status"), [(_torch, GOOD, "healthy"), (_torch, LOW, "repaired"), (_keras, LOW, "repaired")]
)
def test_single_row(make: Callable[..., dict[str, Any]], rate: float, status: str) -> None:
    result = _fit(make(3, rate, "mse"), ROW, epochs=150)
    assert (result.status, result.judged_on) == (status, "training")
    assert result.score > -0.01 * 1.5**2


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "status"), [(GOOD, "healthy"), (LOW, "repaired")])
def test_single_row_in_a_loop(rate: float, status: str) -> None:
    arguments = _torch(3, rate, "mse")
    loader = DataLoader(TensorDataset(*map(torch.tensor, ROW)), 1)
    loop = autotrainer.Loop(*[arguments[n] for n in ("model", "optimizer", "loss")], loader, epochs=150, budget=3.0)
    for _ in loop:
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(x), y).backward()
            loop.optimizer.step()
    assert loop.result.status == status


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rate", "scale", "status"), [(0.005, 1, "healthy"), (50.0, 1, "repaired"), (0.005, 1e4, "repaired")]
)
def test_loss_of_two_outputs_that_hides_them(rate: float, scale: float, status: str) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(400, 4)).astype(np.float32)
    parts = TensorDataset(*map(torch.tensor, (x * np.float32(scale), x[:, :2].argmax(axis=1), x[:, 2:3] * 2)))

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.label, self.number = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            hidden = torch.relu(self.body(x))
            return self.label(hidden), self.number(hidden)

    def step(model: nn.Module, batch: Any) -> Tensor:
        x, labels, numbers = batch
        scores, estimates = model(x)
        return nn.functional.cross_entropy(scores, labels) + nn.functional.mse_loss(estimates, numbers)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Heads()
    train, validation = (DataLoader(torch.utils.data.Subset(parts, r), 32) for r in (range(320), range(320, 400)))
    optimizer = torch.optim.Adam(model.parameters(), rate)
    result = autotrainer.fit(
        model, train, validation, optimizer=optimizer, step=step, epochs=20, budget=3.0, progress=False
    )
    assert (result.status, result.metric) == (status, "negative loss")
    assert result.score > -0.5


def test_loss_of_mean_outputs_is_that_of_equal_outputs_for_all_rows() -> None:
    model, loss = nn.Linear(3, 2), nn.TripletMarginLoss(margin=1.0)
    parts = TensorDataset(torch.randn(40, 3, 3, generator=torch.Generator().manual_seed(0)))

    def step(model: nn.Module, batch: Any) -> Tensor:
        result: Tensor = loss(*(model(batch[0][:, part]) for part in range(3)))
        return result

    by_call, by_part = (
        losses_with_mean_outputs(model, Objective(None, chosen), LoaderBatches(DataLoader(parts, 20), CPU, pairs=False))
        for chosen in (step, lambda model, batch: model.weight.square().sum())
    )
    assert by_call[1] == pytest.approx([1.0, 1.0])
    assert (by_call[0] != by_call[1]).all()
    assert not len(by_part[0])
    assert not model._forward_hooks


def test_loader_that_drops_its_only_batch_is_an_error() -> None:
    arguments, data = _torch(2, GOOD, "bce"), TensorDataset(*map(torch.tensor, XOR))
    with pytest.raises(DataError, match="train_data is empty: the DataLoader holds no batch"):
        _fit(arguments, DataLoader(data, 32, drop_last=True), XOR, epochs=1)


class _Rows(Dataset[tuple[Tensor, Tensor]]):
    """Rows that count how often they are read."""

    def __init__(self, rows: int, dtype: torch.dtype = torch.float32) -> None:
        self.inputs, self.reads = torch.arange(2.0 * rows).reshape(rows, 2).to(dtype), 0

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.inputs[row], torch.tensor(row % 2)


def _validates_on_training_rows(train: _Rows, validation: _Rows) -> bool:
    model = nn.Linear(2, 2).to(train.inputs.dtype)
    data = (normalize(DataLoader(rows, 10), name) for rows, name in ((train, "train_data"), (validation, "v")))
    request = FitRequest(model, *data, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1), 1, 10)
    trainer = PyTorchBackend().trainer(request)
    train.reads = validation.reads = 0
    return validates_on_training_rows(request, trainer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loaders_with_the_same_few_rows(dtype: torch.dtype) -> None:
    assert _validates_on_training_rows(_Rows(12, dtype), _Rows(12, dtype))
    assert not _validates_on_training_rows(_Rows(12, dtype), _Rows(13, dtype))


def test_few_rows_are_not_read_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    many, validation = _Rows(200), _Rows(200)
    assert not _validates_on_training_rows(many, validation)
    assert validation.reads == 0, "rows can be held out: the validation rows make no difference"
    monkeypatch.setattr("autotrainer.diagnostics.first_rows._BYTES", 3 * 2 * 4)
    large, validation = _Rows(12), _Rows(12)
    assert not _validates_on_training_rows(large, validation)
    assert validation.reads == 0, "the training rows are too large to compare"
