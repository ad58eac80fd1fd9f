"""Edits that add schedules and callbacks, in real trainings."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from autotrainer import edits as e
from autotrainer.adapter.spec import SupportLevel, TrainingSpec
from autotrainer.backends.pytorch.layers.update_clipping import clip_updates
from autotrainer.backends.pytorch.optim.optimizers import edit_optimizer
from autotrainer.reporting.plan import RepairPlan


def recording(rates: list[float], rate: float = 0.1) -> Any:
    """Return what makes an SGD that notes the learning rate of each step."""

    class Noted(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            rates.append(float(self.param_groups[0]["lr"]))
            return super().step(closure)

    return lambda params: Noted(params, lr=rate)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(before: nn.Module, after: nn.Module, prefix: str) -> bool:
    return all(
        torch.equal(value, weights(after)[name]) for name, value in weights(before).items() if name.startswith(prefix)
    )


class Functional(nn.Module):
    """`F.relu` in ``forward``, one activation module for two layers, and a layer of its own for a second use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 2)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(self.act(self.c(self.act(self.b(F.relu(self.a(x)))))))
        return out


class Two(nn.Module):
    """A recurrent layer beside a dense one, over two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc, self.out = nn.LSTM(2, 8, batch_first=True), nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.out(torch.cat([F.relu(self.fc(x)), self.rnn(steps)[0][:, -1]], 1))
        return out


# -- learning rate and length -----------------------------------------------------------------------------------------


def test_warm_up_rises_linearly_to_the_base_rate(managed: Any) -> None:
    rates: list[float] = []
    trained, _ = managed.train(managed.mlp(), e.WarmUpRate(4), optimizer=recording(rates))
    assert rates[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert trained.optimizer.param_groups[0]["lr"] == 0.1


def test_decay_ends_at_its_floor_and_the_plan_has_its_steps(managed: Any) -> None:
    rates: list[float] = []
    edits = (e.WarmUpRate(2), e.DecayRate(0.1))
    trained, _ = managed.train(managed.mlp(), *edits, optimizer=recording(rates), epochs=3)
    assert len(rates) == 21
    assert rates[2] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[2:]))
    assert 0.01 < rates[-1] < 0.012
    assert trained.edits[1] == e.DecayRate(0.1, steps=21)


def test_user_scheduler_continues_below_a_warm_up(managed: Any) -> None:
    rates: list[float] = []
    options = {
        "optimizer": recording(rates),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1),
    }
    managed.train(managed.mlp(), e.WarmUpRate(2), **options)
    assert rates[0] == pytest.approx(0.05)
    assert rates[7] == pytest.approx(0.01)
    trainer = managed.trainer(managed.mlp(), **options)
    for edit in (e.DecayRate(), e.ExtendTraining(9), e.ReduceOnPlateau()):
        assert "has its own scheduler" in trainer.supports(edit).reason
    rates.clear()
    managed.train(managed.mlp(), e.DecayRate(instead=True), **options)
    assert rates[7] == pytest.approx(0.05, rel=0.01), "half way along the cosine, not a tenth"


def test_extended_training_has_more_epochs_and_more_work(managed: Any) -> None:
    trainer = managed.trainer(managed.mlp())
    spec = TrainingSpec(2, 0).with_edits((e.ExtendTraining(5),))
    assert spec.epochs == 5
    run = managed.Run()
    trainer.train(spec, run)
    assert [epoch for epoch, _, _ in run.ends] == [0, 1, 2, 3, 4]
    assert run.trained == 5 * 200
    assert run.context.planned_epochs == 5
    assert "has 2 epochs already" in trainer.supports(e.ExtendTraining(2)).reason


def test_schedules_replace_each_other() -> None:
    spec = TrainingSpec(9, 0).with_edits((e.ReduceOnPlateau(),)).with_edits((e.DecayRate(),))
    assert spec.edits == (e.DecayRate(),)
    spec = spec.with_edits((e.TuneAdam(0.9),)).with_edits((e.SwapOptimizer("sgd", 0.1),))
    assert spec.edits == (e.DecayRate(), e.SwapOptimizer("sgd", 0.1))


# -- optimizer --------------------------------------------------------------------------------------------------------


def test_tune_adam_applies_to_adam_only(managed: Any) -> None:
    trained, _ = managed.train(managed.mlp(), e.TuneAdam(0.95, 1e-15))
    assert [(g["betas"], g["eps"]) for g in trained.optimizer.param_groups] == [((0.9, 0.95), 1e-15)]
    sgd = managed.trainer(managed.mlp(), optimizer=lambda params: torch.optim.SGD(params, 0.1))
    assert "no second moment" in sgd.supports(e.TuneAdam(0.95)).reason


def moved(clipped: bool, jump: float) -> float:
    """Return the length of the step that follows 200 small gradients, ÷ learning rate."""
    weight = nn.Parameter(torch.zeros(50))
    optimizer = torch.optim.Adam([weight], lr=0.01)
    if clipped:
        clip_updates(optimizer)
    for step in range(201):
        before = weight.detach().clone()
        torch.manual_seed(step)
        weight.grad = torch.randn(50) * (jump if step == 200 else 1.0)
        optimizer.step()
    return float((weight.detach() - before).abs().mean()) / 0.01


def test_clipped_updates_stay_near_the_learning_rate_when_gradients_jump() -> None:
    assert moved(False, 30.0) > 1
    assert moved(True, 30.0) < 0.1
    assert moved(True, 1.0) == pytest.approx(moved(False, 1.0), rel=0.2)


def test_first_step_is_never_clipped(managed: Any) -> None:
    plain, clipped = (
        managed.train(managed.mlp(), *edits, epochs=1, batch_size=200)[0].model
        for edits in ((), (e.TuneAdam(clip_updates=True),))
    )
    assert same(plain, clipped, "")


def test_missing_parameters_learn_and_frozen_or_kept_ones_do_not(managed: Any) -> None:
    model = managed.mlp()
    model[0].weight.requires_grad_(False)
    given = torch.optim.SGD(model[2].parameters(), lr=0.1)
    edit = e.CompleteOptimizer(("0", "2", "4"))
    trained, _ = managed.train(model, edit, optimizer=given)
    assert trained.edits == (e.CompleteOptimizer(("2", "4")),), "a layer with frozen parameters is none of ours"
    assert same(model, trained.model, "0.weight")
    assert not same(model, trained.model, "4.")
    kept = managed.trainer(model, optimizer=given, keep=("4",))
    assert "keep" in kept.supports(e.CompleteOptimizer(("4",))).reason
    whole = managed.trainer(managed.mlp())
    assert "has all of these" in whole.supports(edit).reason


def test_plan_completes_an_optimizer() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9)
    _, changed = RepairPlan(("x",), (e.CompleteOptimizer(("2",)),)).apply(model, optimizer)
    assert {id(p) for g in changed.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}
    assert changed.param_groups[1]["momentum"] == 0.9


def test_optimizer_state_is_reset_at_the_start_and_periodically(managed: Any) -> None:
    model = managed.mlp()
    used = torch.optim.Adam(model.parameters(), lr=1e-2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    state = weights(model)
    used.step()
    model.load_state_dict(state)
    _, stale = managed.train(model, optimizer=used, epochs=20)
    fresh, run = managed.train(model, e.ResetOptimizerState(), optimizer=used, epochs=20)
    assert run.ends[-1][1]["loss"] < stale.ends[-1][1]["loss"] / 3
    often, _ = managed.train(model, e.ResetOptimizerState(1), optimizer=used)
    assert {int(s["step"]) for s in often.optimizer.state.values()} == {7}
    assert {int(s["step"]) for s in fresh.optimizer.state.values()} == {140}


def test_gradients_are_zeroed_after_each_step() -> None:
    model = nn.Linear(2, 1)
    optimizer = edit_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, (e.RestoreZeroGrad(),))
    for _ in range(2):
        model(torch.ones(3, 2)).sum().backward()
        assert model.bias.grad.item() == 3
        optimizer.step()
    assert model.bias.grad is None


# -- bad steps and epochs ---------------------------------------------------------------------------------------------


def normalized(managed: Any) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def bad_batch(managed: Any, value: float) -> tuple[Any, Any]:
    x = managed.x[:200].copy()
    x[17] = value
    return x, managed.y[:200]


def test_bad_batch_is_skipped_without_traces(managed: Any) -> None:
    data = bad_batch(managed, np.nan)
    poisoned, _ = managed.train(normalized(managed), train=data)
    assert not all(torch.isfinite(v).all() for v in poisoned.model.state_dict().values())
    trained, run = managed.train(normalized(managed), e.SkipUpdates(), train=data, epochs=4)
    assert all(torch.isfinite(v).all() for v in trained.model.state_dict().values())
    assert all(np.isfinite(values["loss"]) for _, values, _ in run.ends)


def test_step_with_an_outlier_gradient_is_skipped(managed: Any) -> None:
    options = {"optimizer": lambda params: torch.optim.SGD(params, 0.05), "epochs": 40}
    options["train"] = bad_batch(managed, 3000.0)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    _, plain = managed.train(model, **options)
    _, guarded = managed.train(model, e.SkipUpdates(window=12), **options)
    assert guarded.ends[-1][1]["loss"] < plain.ends[-1][1]["loss"] / 2


def test_healthy_steps_are_all_taken(managed: Any) -> None:
    plain, _ = managed.train(managed.mlp(), epochs=10)
    guarded, _ = managed.train(managed.mlp(), e.SkipUpdates(), e.Rollback(), epochs=10)
    assert same(plain.model, guarded.model, "")


def test_rollback_returns_to_the_best_epoch_at_a_lower_rate(managed: Any) -> None:
    class Jump(nn.Module):
        """Loses its weights in one epoch."""

        def __init__(self) -> None:
            super().__init__()
            self.layers, self.calls = managed.mlp(), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += self.training
            if self.training and 29 <= self.calls < 31:  # in the fifth epoch
                with torch.no_grad():
                    self.layers[4].weight.mul_(-100)
            out: torch.Tensor = self.layers(x)
            return out

    _, plain = managed.train(Jump(), epochs=7, loss=nn.CrossEntropyLoss())
    trained, run = managed.train(Jump(), e.Rollback(), epochs=7)
    losses = [values["val_loss"] for _, values, _ in run.ends]
    assert plain.ends[4][1]["val_loss"] > 3 * losses[4]
    assert losses[4] == losses[3], "evaluated where it went back to"
    assert losses[-1] <= losses[3] * 1.05
    assert trained.optimizer.param_groups[0]["lr"] == pytest.approx(5e-3)
    assert "LBFGS" in managed.trainer(managed.mlp(), optimizer=torch.optim.LBFGS).supports(e.Rollback()).reason


# -- units ------------------------------------------------------------------------------------------------------------


def dead(model: Any, *names: str) -> Any:
    for name in names:
        nn.init.constant_(model.get_submodule(name).bias, -100.0)
    return model


def train_accuracy(managed: Any, trained: Any) -> float:
    return float((trained.predict(managed.x[:200]).argmax(1) == managed.y[:200]).mean())


def test_dead_units_are_reinitialized_and_learn(managed: Any) -> None:
    torch.manual_seed(1)
    model = dead(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)), "0")
    stuck, _ = managed.train(model, epochs=30)
    alive, _ = managed.train(model, e.ReviveUnits(("0", "2")), epochs=30)
    assert train_accuracy(managed, stuck) < 0.6
    assert train_accuracy(managed, alive) > 0.9


def test_active_units_are_not_reinitialized(managed: Any) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].bias[3] = -100.0
    options = {"optimizer": lambda params: torch.optim.SGD(params, 1e-9), "epochs": 2}
    trained, _ = managed.train(model, e.ReviveUnits(("0",)), **options)
    changed = (trained.model[0].weight - model[0].weight).abs().sum(1) > 1e-4
    assert changed.nonzero().flatten().tolist() == [3]
    assert float(trained.model[0].bias[3].detach()) == pytest.approx(0, abs=1e-6)


def test_units_of_functional_and_shared_activations_are_observed(managed: Any) -> None:
    model = dead(Functional(), "a", "c")
    trained, _ = managed.train(model, e.ReviveUnits(("a", "b", "c")), epochs=4)
    assert all(bool((trained.model.get_submodule(name).bias > -1).all()) for name in ("a", "c"))
    two = Two()
    x = (managed.x[:200], np.stack([managed.x[:200, :2]] * 3, 1))
    held = (managed.x[200:], np.stack([managed.x[200:, :2]] * 3, 1))
    options = {"train": (x, managed.y[:200]), "validation": (held, managed.y[200:])}
    changed, _ = managed.train(dead(two, "fc"), e.ReviveUnits(("rnn", "fc")), epochs=4, **options)
    assert bool((changed.model.fc.bias > -1).all())
    assert "none of the layers" in managed.trainer(Two(), **options).supports(e.ReviveUnits(("rnn",))).reason


def test_frozen_and_kept_layers_are_not_reinitialized(managed: Any) -> None:
    model = dead(managed.mlp(), "0")
    assert "keep" in managed.trainer(model, keep=("0",)).supports(e.ReviveUnits(("0",))).reason
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    assert "frozen" in managed.trainer(model).supports(e.ReviveUnits(("0",))).reason
    trained, _ = managed.train(model, e.ReviveUnits(("0", "2")), epochs=4)
    assert same(model, trained.model, "0.")
    assert trained.edits == (e.ReviveUnits(("2",)),)


# -- mode and precision -----------------------------------------------------------------------------------------------


def test_mode_is_set_for_a_step_that_does_not_set_it(managed: Any) -> None:
    def step(model: nn.Module, batch: Any) -> Any:
        model.eval()
        outputs = model(batch[0])
        return F.cross_entropy(outputs, batch[1]), outputs, batch[1]

    given = normalized(managed)
    options = {"loss": None, "step": step}
    plain, _ = managed.train(given, **options)
    assert same(given, plain.model, "1.running_mean")
    mended, _ = managed.train(given, e.SetMode(), **options)
    assert not same(given, mended.model, "1.running_mean")
    assert not mended.model._forward_pre_hooks
    assert "sets the mode itself" in managed.trainer(given).supports(e.SetMode()).reason
    assert "resets the gradients" in managed.trainer(given).supports(e.RestoreZeroGrad()).reason


def test_raising_precision_converts_data_and_optimizer(managed: Any) -> None:
    model = managed.mlp().half()
    x = managed.x * 1e5  # beyond 65504, and fine in single precision
    options = {
        "train": (x[:200], managed.y[:200]),
        "validation": (x[200:], managed.y[200:]),
        "optimizer": lambda params: torch.optim.SGD(params, 1e-6),
    }
    poisoned, _ = managed.train(model, **options)
    assert not np.isfinite(poisoned.predict(x[:9])).all()
    trained, run = managed.train(model, e.RaisePrecision(), **options)
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    assert np.isfinite(trained.predict(x[:9])).all()
    assert np.isfinite(run.ends[-1][1]["val_loss"])
    assert model[0].weight.dtype == torch.float16
    changed, _ = RepairPlan(("x",), (e.RaisePrecision(),)).apply(copy.deepcopy(model))
    assert changed[0].weight.dtype == torch.float32
    assert managed.trainer(model).supports(e.RaisePrecision()).level is SupportLevel.REBUILD
    assert "single precision" in managed.trainer(managed.mlp()).supports(e.RaisePrecision()).reason
