"""Measured values, compared with plain NumPy and autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.signals import LAYER_COLUMNS, Observation

torch.set_num_threads(1)


class Watched:
    """A training of a few steps whose observations are kept."""

    def __init__(self, model: nn.Module, loss_fn: Any, optimizer: Any = None, **options: Any) -> None:
        self.model, self.loss_fn = model, loss_fn
        self.optimizer: Any = optimizer or torch.optim.SGD(model.parameters(), 0.1)
        self.monitor: Monitor = autotrainer.watch(model, self.optimizer, loss_fn=loss_fn, select=(), **options)
        self.seen: list[Observation] = []
        record = self.monitor.record

        def keep(seen: Observation) -> None:
            self.seen.append(seen)
            record(seen)

        self.monitor.record = keep  # type: ignore[method-assign]

    def step(self, x: Any, y: Tensor) -> Observation:
        self.optimizer.zero_grad()
        self.loss_fn(self.model(x), y).backward()
        self.optimizer.step()
        assert not self.monitor._failed
        return self.seen[-1]

    def row(self, name: str) -> dict[str, float]:
        rows = {info.name: row for info, row in zip(self.monitor.history.layers, self.seen[-1].layers, strict=True)}
        return dict(zip(LAYER_COLUMNS, rows[name].tolist(), strict=True))

    def activation(self, name: str) -> str | None:
        return next(info.activation for info in self.monitor.history.layers if info.name == name)

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.monitor.history.layers]

    @property
    def shown(self) -> list[str]:
        return [info.name for info in self.monitor.history.layers if not info.hidden]


def test_every_column_equals_a_plain_computation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    watched = Watched(model, nn.CrossEntropyLoss())
    x, y = torch.randn(32, 6), torch.randint(0, 3, (32,))
    before = [p.detach().clone() for p in model[0].parameters()]
    hidden = model[0](x).detach().numpy()
    loss = F.cross_entropy(model(x), y)
    known = loss.item()
    gradients = [g.numpy() for g in torch.autograd.grad(loss, list(model[0].parameters()))]
    seen = watched.step(x, y)
    flat = np.concatenate([g.ravel() for g in gradients])
    weights = np.concatenate([p.numpy().ravel() for p in before])
    moved = np.concatenate([p.detach().numpy().ravel() for p in model[0].parameters()]) - weights
    expected = {
        "grad_norm": np.linalg.norm(flat),
        "grad_zero_fraction": np.mean(flat == 0),
        "weight_norm": np.linalg.norm(weights),
        "update_ratio": np.linalg.norm(moved) / np.linalg.norm(weights),
        "activation_mean_abs": np.abs(hidden).mean(),
        "activation_std": hidden.std(),
        "activation_max_abs": np.abs(hidden).max(),
        "activation_spread": np.sqrt(hidden.var(axis=0).mean()),
    }
    row = watched.row("0")
    for name, value in expected.items():
        assert row[name] == pytest.approx(value, rel=1e-4), name
    assert np.isnan(row["dead_units"])
    assert np.isnan(row["saturated"])
    relu = watched.row("1")
    assert relu["activation_mean_abs"] == pytest.approx(np.maximum(hidden, 0).mean(), rel=1e-4)
    assert np.isnan([relu[name] for name in LAYER_COLUMNS[:4]]).all()
    assert seen.loss == pytest.approx(known, rel=1e-5)
    assert (seen.step, seen.learning_rate, seen.batch_size) == (0, 0.1, 32)
    np.testing.assert_array_equal(seen.inputs, x.numpy())
    np.testing.assert_array_equal(seen.targets, y.numpy())
    assert seen.outputs is not None
    assert seen.outputs.shape == (32, 3)
    assert watched.names == ["0", "1", "2"]
    assert watched.shown == ["2"]
    assert watched.monitor.context.output_activation == "linear"
    assert watched.monitor.context.output_units == 3


class Net(nn.Module):
    """Calls an activation as a function."""

    def __init__(self, activation: Callable[[Tensor], Tensor], inside: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)
        self.function, self.inside = activation, inside

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (torch.relu, "relu"),
        (torch.relu_, "relu"),
        (lambda x: x.relu(), "relu"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: torch.clamp(x, 0), "relu"),
        (lambda x: x.clamp(min=-1), "linear"),
        (F.relu6, "relu6"),
        (torch.sigmoid, "sigmoid"),
        (F.sigmoid, "sigmoid"),
        (lambda x: x.sigmoid_(), "sigmoid"),
        (torch.tanh, "tanh"),
        (F.gelu, "gelu"),
        (F.leaky_relu, "leaky_relu"),
        (F.elu, "elu"),
        (F.selu, "selu"),
        (F.silu, "silu"),
        (lambda x: x * torch.sigmoid(x), "silu"),
        (lambda x: torch.sigmoid(x) * x, "silu"),
        (lambda x: F.softmax(x, 1), "softmax"),
        (lambda x: x.softmax(-1), "softmax"),
        (lambda x: F.log_softmax(x, 1), "log_softmax"),
        (F.softsign, "softsign"),
        (F.hardtanh, "hard_tanh"),
        (lambda x: F.dropout(x, 0.1).view(-1, 5).relu(), "relu"),
        (lambda x: x + 1, "linear"),
        (lambda x: -x.detach() / 2 + 3 * x, "linear"),
        (lambda x: x * torch.sigmoid(1.7 * x), "silu"),
        (lambda x: torch.relu(x) + torch.sigmoid(x), None),
        (lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.045 * x**3))), None),
        (lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)), None),
        (lambda x: x / (1 + torch.exp(-x)), None),
        (lambda x: x * x, None),
        (lambda x: torch.where(x > 0, x, 0.1 * x), None),
        (lambda x: torch.maximum(x, torch.zeros(())), None),
    ],
)
def test_functional_activations_are_recorded(function: Callable[[Tensor], Tensor], name: str | None) -> None:
    torch.manual_seed(0)
    watched = Watched(Net(function), nn.MSELoss())
    for _ in range(6):
        watched.step(torch.randn(16, 4), torch.randn(16, 2))
    assert watched.activation("first") == name
    assert watched.activation("last") == "linear"
    assert watched.names == ["first", "last"]
    row = watched.row("first")
    assert np.isnan(row["dead_units"]) == (name not in ("relu", "relu6"))
    assert np.isnan(row["saturated"]) == (name not in ("sigmoid", "tanh", "softsign", "hard_tanh"))


def test_activated_output_is_what_a_functional_row_has() -> None:
    torch.manual_seed(0)
    watched = Watched(Net(F.relu), nn.MSELoss())
    x = torch.randn(16, 4)
    expected = F.relu(watched.model.first(x)).mean().item()  # type: ignore[operator, union-attr]
    watched.step(x, torch.randn(16, 2))
    assert watched.row("first")["activation_mean_abs"] == pytest.approx(expected, rel=1e-4)


class Shared(nn.Module):
    """Uses one activation module after each of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.a, self.b, self.c = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.act(self.b(self.act(self.a(x)))))


def test_a_shared_activation_module_counts_for_each_layer() -> None:
    torch.manual_seed(0)
    model = Shared()
    with torch.no_grad():
        model.b.bias.fill_(-100)
    watched = Watched(model, nn.MSELoss())
    for _ in range(6):
        watched.step(torch.randn(16, 4), torch.randn(16, 2))
    assert watched.names == ["a", "b", "c"]
    assert [watched.activation(name) for name in "abc"] == ["relu", "relu", "linear"]
    assert watched.row("b")["dead_units"] == 1
    assert watched.row("a")["dead_units"] < 1
    assert watched.row("b")["activation_spread"] == 0


def test_dead_units_need_five_batches_and_count_channels() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3)
    with torch.no_grad():
        conv.bias[:3] = -100.0  # type: ignore[index]
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 2))
    model[1] = nn.ReLU()
    watched = Watched(model, nn.MSELoss())
    shares = []
    for _ in range(7):
        watched.step(torch.randn(8, 1, 6, 6), torch.randn(8, 2))
        shares.append(watched.row("1")["dead_units"])
    assert np.isnan(shares[:4]).all()
    assert shares[4:] == [0.75] * 3


@pytest.mark.parametrize(("module", "large"), [(nn.Sigmoid(), True), (nn.Tanh(), True), (nn.Sigmoid(), False)])
def test_saturation(module: nn.Module, large: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 1))
    if large:
        with torch.no_grad():
            model[0].weight.mul_(1e4)  # type: ignore[operator, union-attr]
    watched = Watched(model, nn.MSELoss())
    watched.step(torch.randn(16, 4), torch.randn(16, 1))
    assert (watched.row("1")["saturated"] > 0.9) == large


def test_rows_come_in_forward_order() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(5, 2), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    watched = Watched(Backwards(), nn.MSELoss())
    assert [info.name for info in watched.monitor.context.layers] == ["last", "first"]
    watched.step(torch.randn(3, 4), torch.randn(3, 2))
    assert watched.names == ["first", "last"]
    assert watched.shown == ["last"]


@pytest.mark.parametrize(
    ("last", "outside", "expected"),
    [
        (nn.Softmax(1), None, "softmax"),
        (nn.Identity(), lambda z: F.softmax(z, 1), "softmax"),
        (nn.Identity(), lambda z: F.log_softmax(z, 1), "log_softmax"),
        (nn.Identity(), lambda z: torch.softmax(z, 1).log(), "log_softmax"),
        (nn.Identity(), lambda z: z.view(-1, 3), "linear"),
        (nn.Identity(), None, "linear"),
        (nn.ReLU(), None, "relu"),
        (nn.Sigmoid(), lambda z: z.squeeze(), "sigmoid"),
    ],
)
def test_output_activation(last: nn.Module, outside: Any, expected: str) -> None:
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(nn.Linear(4, 3), last), nn.MSELoss()
    watched = Watched(model, loss_fn)
    if outside is not None:
        inner = watched.loss_fn
        watched.loss_fn = lambda z, y: inner(outside(z), y)
    watched.step(torch.randn(8, 4), torch.rand(8, 3))
    assert watched.monitor.context.output_activation == expected
    assert "0" in watched.shown


def test_rows_are_copied_within_limits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3000, 4))
    seen = Watched(model, nn.MSELoss()).step(torch.randn(300, 3000), torch.randn(300, 4))
    assert seen.inputs is not None
    assert seen.inputs.ndim == 2
    assert seen.inputs.shape[1] <= 1024
    assert seen.inputs.size <= 65536
    assert seen.outputs is not None
    assert seen.outputs.shape == (256, 4)
    image = nn.Sequential(nn.AvgPool2d(64), nn.Flatten(), nn.Linear(48, 4))
    seen = Watched(image, nn.MSELoss()).step(torch.randn(4, 3, 256, 256), torch.randn(4, 4))
    assert seen.inputs is not None
    assert seen.inputs.ndim == 3
    assert seen.inputs.size <= 65536


def test_large_layers_are_compared_on_a_subset() -> None:
    torch.manual_seed(0)
    model = nn.Linear(500, 400)
    watched = Watched(model, nn.MSELoss())
    before = model.weight.detach().clone()
    watched.step(torch.randn(32, 500), torch.randn(32, 400))
    exact = float((model.weight.detach() - before).norm() / before.norm())
    assert watched.row("linear")["update_ratio"] == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_is_infinite(value: float) -> None:
    watched = Watched(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), nn.MSELoss())
    x = torch.randn(5, 3)
    x[0, 0] = value
    seen = watched.step(x, torch.randn(5, 1))
    assert seen.loss == float("inf")
    row = watched.row("0")
    columns = ("grad_norm", "activation_mean_abs", "activation_std", "activation_max_abs", "activation_spread")
    assert all(row[name] == float("inf") for name in columns)
    watched.step(torch.randn(5, 3), torch.randn(5, 1))
    assert watched.row("0")["weight_norm"] == float("inf")


def test_closure_optimizers_have_gradients() -> None:
    torch.manual_seed(0)
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)
    watched = Watched(model, loss_fn, optimizer)
    x, y = torch.randn(16, 4), torch.randn(16, 1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = loss_fn(model(x), y)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert not watched.monitor._failed
    assert watched.row("linear")["grad_norm"] > 0
    assert watched.row("linear")["update_ratio"] > 0
    assert np.isfinite(watched.seen[0].loss)


def test_scale_of_a_fused_optimizer_is_removed() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, fused=True)
    watched = Watched(model, nn.MSELoss(), optimizer)
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(F.mse_loss(model(x), y), [*model.parameters()])])
    (watched.loss_fn(model(x), y) * 1024).backward()
    optimizer.grad_scale = torch.tensor(1024.0)
    optimizer.found_inf = torch.tensor(0.0)
    optimizer.step()
    assert watched.row("linear")["grad_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("select", "measured"),
    [(["overfitting"], False), (["nonfinite"], True), (["dying_relu"], True), (None, True)],
)
def test_activations_are_measured_for_rules_that_need_them(
    select: list[str] | None, measured: bool, tmp_path: Any
) -> None:
    def table(**options: Any) -> np.ndarray[Any, Any]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
        loss_fn, optimizer = nn.MSELoss(), torch.optim.SGD(model.parameters(), 0.1)
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=select, **options) as monitor:
            for _ in range(6):
                optimizer.zero_grad()
                loss_fn(model(torch.randn(16, 4)), torch.randn(16, 1)).backward()
                optimizer.step()
        assert [layer.activation for layer in monitor.context.layers] == ["relu", "relu", "linear"]
        assert np.isfinite(monitor.history.layer("weight_norm")[:, 0]).all()
        names = ("activation_std", "dead_units")
        return np.stack([monitor.history.layer(name)[-1, 1] for name in names])

    assert np.isfinite(table()).all() == measured
    assert np.isnan(table()).all() != measured
    assert np.isfinite(table(log_dir=tmp_path)).all(), "a run log is for rules of a later day"


def test_losses_of_several_optimizers_are_not_one_loss() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"maker": nn.Linear(4, 2), "judge": nn.Linear(2, 1)})
    optimizers = [torch.optim.Adam(part.parameters(), 1e-3) for part in model.values()]
    for given, several in ((optimizers, True), (optimizers[:1], False), (optimizers[0], False)):
        with autotrainer.watch(model, given) as monitor:
            for optimizer in optimizers:
                optimizer.zero_grad()
                model["judge"](model["maker"](torch.randn(8, 4))).mean().backward()
                optimizer.step()
        assert monitor.context.optimizer.several is several


def test_each_optimizer_has_its_own_parameters() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    first, second = (torch.optim.SGD(model[i].parameters(), 0.1) for i in (0, 2))
    watched = Watched(model, nn.MSELoss(), [first, second])
    for _ in range(3):
        model.zero_grad()
        watched.loss_fn(model(torch.randn(8, 4)), torch.randn(8, 1)).backward()
        second.step()
        first.step()
    assert [s.step for s in watched.seen] == [0, 1, 2]
    for name in ("0", "2"):
        assert watched.row(name)["grad_norm"] > 0
        assert watched.row(name)["update_ratio"] > 0
