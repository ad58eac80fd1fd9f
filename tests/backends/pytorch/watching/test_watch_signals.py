"""Dormant units, second moments, features and gradient directions, compared with plain computations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import autotrainer
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.signals import LAYER_COLUMNS, Observation

torch.set_num_threads(1)

NAN = float("nan")


class Watched:
    """A training of a few steps whose observations are kept."""

    def __init__(self, model: nn.Module, optimizer: Any = None, **options: Any) -> None:
        self.model = model
        self.optimizer: Any = optimizer or torch.optim.SGD(model.parameters(), 0.1)
        self.loss_fn = nn.MSELoss()
        options = {"select": (), **options}
        self.monitor: Monitor = autotrainer.watch(model, self.optimizer, loss_fn=self.loss_fn, **options)
        self.seen: list[Observation] = []
        record = self.monitor.record

        def keep(seen: Observation) -> None:
            self.seen.append(seen)
            record(seen)

        self.monitor.record = keep  # type: ignore[method-assign]

    def step(self, *inputs: Any, **named: Any) -> Observation:
        self.optimizer.zero_grad()
        output = self.model(*inputs, **named)
        self.loss_fn(output, torch.zeros_like(output)).backward()
        self.optimizer.step()
        assert not self.monitor._failed
        return self.seen[-1]

    def column(self, column: str) -> dict[str, float]:
        names = [info.name for info in self.monitor.history.layers]
        values = self.seen[-1].layers[:, LAYER_COLUMNS.index(column)]
        return dict(zip(names, values.tolist(), strict=True))


# -- dormant units ----------------------------------------------------------------------------------------------------


def quiet(layer: nn.Linear, units: int) -> nn.Linear:
    """Make the first units of a layer nearly, but not quite, silent."""
    with torch.no_grad():
        layer.weight[:units] *= 1e-3
        layer.bias[:units] *= 1e-3
    return layer


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU])
def test_dormant_units_are_counted_after_the_activation(activation: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(quiet(nn.Linear(6, 8), 3), activation(), nn.Linear(8, 3), activation())
    watched = Watched(model)
    x = torch.randn(32, 6)
    means = model[:2](x).abs().mean(0)
    share = (means <= 0.025 * means.mean()).float().mean().item()
    watched.step(x)
    assert share >= 3 / 8
    assert watched.column("dormant") == pytest.approx({"0": NAN, "1": share, "2": NAN, "3": NAN}, nan_ok=True)


def test_units_are_channels_and_functional_activations_count_for_their_layer() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(64, 2)
            nn.init.constant_(self.norm.weight[:1], 1e-4)  # type: ignore[arg-type]

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.norm(self.conv(x))).flatten(1))

    torch.manual_seed(0)
    watched = Watched(Net())
    watched.step(torch.randn(8, 1, 6, 6))
    assert watched.column("dormant") == pytest.approx({"conv": NAN, "norm": 0.25, "head": NAN}, nan_ok=True)


def test_no_unit_is_dormant_without_an_activation_or_after_a_softmax() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        quiet(nn.Linear(6, 8), 4), nn.Linear(8, 8), nn.Softmax(1), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU()
    )
    watched = Watched(model)
    watched.step(torch.randn(16, 6))
    assert np.isnan(list(watched.column("dormant").values())).all()


def test_dormant_share_of_zero_and_of_nonfinite_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(model[0].bias, -100)  # type: ignore[arg-type]
    watched = Watched(model)
    watched.step(torch.randn(16, 4))
    assert watched.column("dormant")["1"] == 1
    watched.step(torch.full((16, 4), NAN))
    assert watched.column("dormant")["1"] == math.inf
    assert math.isnan(watched.column("dormant")["0"])


# -- the second moment ------------------------------------------------------------------------------------------------


def adam_ratio(gradients: list[Tensor], beta: float, epsilon: float, largest: bool = False) -> float:
    """Return the ratio after the last of some gradients."""
    moment, most = torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])
    for gradient in gradients:
        moment = beta * moment + (1 - beta) * gradient**2
        most = torch.maximum(most, moment)
    corrected = (most if largest else moment) / (1 - beta ** len(gradients))
    return float((gradients[-1] ** 2 / corrected.clamp_min(epsilon**2)).mean().sqrt())


@pytest.mark.parametrize(
    ("make", "beta", "largest"),
    [
        (lambda p: torch.optim.Adam(p, 0.01), 0.999, False),
        (lambda p: torch.optim.AdamW(p, 0.01, betas=(0.9, 0.95)), 0.95, False),
        (lambda p: torch.optim.Adam(p, 0.01, amsgrad=True), 0.999, True),
        (lambda p: torch.optim.AdamW(p, 0.01, foreach=False), 0.999, False),
        (lambda p: torch.optim.Adam(p, 0.01, fused=True), 0.999, False),
        (lambda p: torch.optim.NAdam(p, 0.01), 0.999, False),
        (lambda p: torch.optim.RAdam(p, 0.01), 0.999, False),
    ],
)
def test_second_moment_ratio(make: Callable[..., Any], beta: float, largest: bool) -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    watched = Watched(model, make(model.parameters()))
    gradients = []
    for size in (1.0, 0.5, 4.0, 0.1):
        watched.step(size * torch.randn(16, 5))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).clone())
        expected = adam_ratio(gradients, beta, 1e-8, largest)
        assert watched.column("second_moment_ratio")["linear"] == pytest.approx(expected, rel=1e-4)


def test_gradient_jump_shows_in_the_second_moment_ratio() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    watched = Watched(model, torch.optim.Adam(model.parameters(), 1e-5))
    for _ in range(9):
        watched.step(torch.randn(64, 5))
        assert watched.column("second_moment_ratio")["linear"] < 1.5
    watched.step(10 * torch.randn(64, 5))
    assert watched.column("second_moment_ratio")["linear"] > 2.3


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.RMSprop(p),
        lambda p: torch.optim.Adamax(p),
        lambda p: torch.optim.Adagrad(p),
    ],
)
def test_other_optimizers_have_no_ratio(make: Callable[..., Any]) -> None:
    model = nn.Linear(5, 3)
    watched = Watched(model, make(model.parameters()))
    for _ in range(3):
        watched.step(torch.randn(16, 5))
    assert math.isnan(watched.column("second_moment_ratio")["linear"])


def test_groups_with_different_settings_and_a_layer_of_two_optimizers() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(4, 4), nn.Linear(4, 2)
    model = nn.Sequential(first, second)
    optimizer = torch.optim.Adam([{"params": first.parameters(), "betas": (0.9, 0.9)}, {"params": second.weight}])
    other = torch.optim.AdamW([second.bias])
    watched = Watched(model, [optimizer, other])
    gradients: dict[str, list[Tensor]] = {"0": [], "1": []}
    for _ in range(3):
        output = model(torch.randn(8, 4))
        model.zero_grad()
        watched.loss_fn(output, torch.zeros_like(output)).backward()
        other.step()
        optimizer.step()
        gradients["0"].append(torch.cat([p.grad.flatten() for p in first.parameters() if p.grad is not None]))
    assert watched.column("second_moment_ratio")["0"] == pytest.approx(adam_ratio(gradients["0"], 0.9, 1e-8), rel=1e-4)
    assert 0 < watched.column("second_moment_ratio")["1"] < 2


def test_scale_of_a_fused_optimizer_is_removed() -> None:
    found = []
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer: Any = torch.optim.Adam(model.parameters(), fused=True)
        watched = Watched(model, optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            output = model(torch.randn(8, 5))
            (watched.loss_fn(output, torch.zeros_like(output)) * scale).backward()
            if scale > 1:
                optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.tensor(0.0)
            optimizer.step()
        found.append((watched.column("second_moment_ratio")["linear"], watched.seen[-1].scalars["gradient_cosine"]))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


# -- the direction of the gradient ------------------------------------------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_gradient_cosine(several: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    parts = [model[0], model[2]] if several else [model]
    optimizers = [torch.optim.SGD(part.parameters(), 0.1) for part in parts]
    watched = Watched(model, optimizers)
    before: Tensor | None = None
    for step in range(4):
        output = model(torch.randn(8, 4))
        model.zero_grad()
        watched.loss_fn(output, torch.zeros_like(output)).backward()
        for optimizer in reversed(optimizers):
            optimizer.step()
        now = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        told = watched.seen[-1].scalars.get("gradient_cosine", NAN)
        if before is None:
            assert math.isnan(told)
        else:
            assert told == pytest.approx(float(F.cosine_similarity(now, before, 0)), abs=1e-5)
        before = now.clone()
        assert len(watched.seen) == step + 1


def test_gradient_cosine_needs_two_directions() -> None:
    torch.manual_seed(0)
    watched = Watched(nn.Linear(4, 2))
    x = torch.randn(8, 4)
    watched.step(x)
    assert watched.step(x).scalars["gradient_cosine"] == pytest.approx(1, abs=1e-3)
    watched.step(torch.full((8, 4), NAN))
    assert "gradient_cosine" not in watched.seen[-1].scalars
    assert "gradient_cosine" not in watched.step(x).scalars


def test_missing_gradient_counts_as_zero() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = model

        def forward(self, x: Tensor, name: str) -> Tensor:
            return self.parts[name](x)

    watched = Watched(Net())
    x = torch.randn(8, 3)
    watched.step(x, "a")
    assert watched.step(x, "b").scalars["gradient_cosine"] == 0


# -- features ---------------------------------------------------------------------------------------------------------


def test_features_enter_the_output_layer() -> None:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 100), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(100, 3), nn.Softmax(1))
    watched = Watched(model)
    x = torch.randn(150, 6)
    assert watched.step(x).features is None, "the first pass shows which layer it is"
    expected = body(x).detach().numpy()[::3, ::2]
    np.testing.assert_allclose(watched.step(x).features, expected, rtol=1e-5)  # type: ignore[arg-type]
    assert 0 < watched.monitor.history.scalar("feature_rank")[-1] <= 1


def test_time_steps_are_rows_of_features() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    watched = Watched(model)
    x = torch.randn(5, 7, 6)
    watched.step(x)
    features = model[:2](x).detach().numpy()
    np.testing.assert_allclose(watched.step(x).features, features.reshape(35, 10), rtol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "model", [nn.Linear(4, 2), nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Sigmoid()), nn.Conv1d(4, 2, 1)]
)
def test_models_without_a_hidden_layer_or_a_dense_output_have_no_features(model: nn.Module) -> None:
    watched = Watched(model)
    x = torch.randn(8, 4, 1) if isinstance(model, nn.Conv1d) else torch.randn(8, 4)
    watched.step(x)
    assert watched.step(x).features is None


# -- what is not needed ----------------------------------------------------------------------------------------------


def test_unneeded_statistics_are_not_measured() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    watched = Watched(model, torch.optim.Adam(model.parameters()), select=["vanishing_gradient"])
    for _ in range(3):
        watched.step(torch.randn(8, 4))
    for column in ("dormant", "second_moment_ratio"):
        assert np.isnan(list(watched.column(column).values())).all()
    assert "gradient_cosine" not in watched.seen[-1].scalars
    assert watched.seen[-1].features is None


def test_half_precision_sparse_and_odd_gradients_do_not_raise() -> None:
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(20, 4, sparse=True)
            self.body = parametrizations.weight_norm(nn.Linear(4, 4))
            self.idle, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4)
            self.frozen.requires_grad_(False)
            self.head = nn.Linear(4, 2).to(torch.bfloat16)

        def forward(self, x: Tensor) -> Tensor:
            hidden = F.relu(self.frozen(F.relu(self.body(self.table(x).mean(1)))))
            return self.head(hidden.to(torch.bfloat16))

    model = Net()
    rest = [p for name, p in model.named_parameters() if not name.startswith("table") and p.requires_grad]
    watched = Watched(model, [torch.optim.AdamW(rest), torch.optim.SparseAdam(model.table.parameters())])
    for _ in range(3):
        output = model(torch.randint(0, 20, (8, 5)))
        model.zero_grad()
        watched.loss_fn(output, torch.zeros_like(output)).backward()
        for optimizer in watched.optimizer:
            optimizer.step()
        assert not watched.monitor._failed
    ratios = watched.column("second_moment_ratio")
    assert {name for name, value in ratios.items() if not math.isnan(value)} == {"body", "head"}
    assert watched.seen[-1].features is not None
