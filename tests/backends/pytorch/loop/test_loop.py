"""`autotrainer.Loop` around realistic training loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.errors import ConfigError, DataError, InputError, StateError

EPOCHS = 8


def _data(scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(500, 10, generator=generator), torch.randn(10, generator=generator)
    return x * scale, (x @ w + x[:, 0] * x[:, 1] > 0).long()


def _loader(scale: float = 1.0) -> DataLoader[Any]:
    x, y = _data(scale)
    return DataLoader(TensorDataset(x[:384], y[:384]), batch_size=32, shuffle=True)


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def _accuracy(model: nn.Module, scale: float = 1.0) -> float:
    x, y = _data(scale)
    model.eval()
    with torch.no_grad():
        return float((model(x[384:]).argmax(1) == y[384:]).float().mean())


def _loop(model: nn.Module, rate: float, *, scale: float = 1.0, **options: Any) -> autotrainer.Loop:
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=rate)
    loss = options.pop("loss_fn", nn.CrossEntropyLoss())
    loader = options.pop("loader", None) or _loader(scale)
    return autotrainer.Loop(model, optimizer, loss, loader, **{"epochs": EPOCHS, **options})


def _train(
    loop: autotrainer.Loop,
    step: Callable[[Any, Any], Any] | None = None,
    scale: float = 1.0,
    fail_in: int | None = None,
) -> list[tuple[int, int]]:
    """Run a usual loop, which raises after an epoch of attempt `fail_in`; returns (attempt, epoch) of all epochs."""
    seen = []
    for epoch in loop:
        loop.model.train()
        for batch in loop.train_loader:
            if step is not None:
                step(loop, batch)
                continue
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(batch[0]), batch[1]).backward()
            loop.optimizer.step()
        seen.append((loop.attempt, epoch))
        loop.end_epoch(val_accuracy=_accuracy(loop.model, scale))
        if loop.attempt == fail_in:
            raise ZeroDivisionError
    return seen


def _repairs(loop: autotrainer.Loop) -> tuple[str, ...]:
    return () if loop.result.plan is None else loop.result.plan.repairs


def test_healthy_training_is_bit_identical_to_the_plain_loop() -> None:
    plain, torch_state = _mlp(), None
    optimizer, loss, loader = torch.optim.SGD(plain.parameters(), lr=0.1), nn.CrossEntropyLoss(), _loader()
    torch.manual_seed(3)
    for _ in range(EPOCHS):
        plain.train()
        for x, y in loader:
            optimizer.zero_grad()
            loss(plain(x), y).backward()
            optimizer.step()
    torch_state = torch.get_rng_state()
    model = _mlp()
    loop = _loop(model, 0.1)
    torch.manual_seed(3)
    assert _train(loop) == [(0, epoch) for epoch in range(EPOCHS)]
    assert loop.result.status == "healthy"
    assert loop.result.model is model
    assert not loop.result.attempts
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


def test_failing_training_is_restarted_and_repaired() -> None:
    model = _mlp()
    start = copy.deepcopy(model.state_dict())
    loop = _loop(model, 50.0)
    seen = _train(loop)
    result = loop.result
    assert result.status == "repaired"
    assert result.score > result.baseline_score + 0.2
    assert "learning rate" in str(result.plan)
    again = [epoch for attempt, epoch in seen if attempt == loop.attempt]
    assert again == list(range(EPOCHS)), "each attempt begins at epoch 0"
    assert seen.index((1, 0)) < EPOCHS, "a stuck training is not run to its end"
    assert loop.model is result.model is not model
    assert loop.optimizer is result.optimizer
    new = _mlp()
    fresh, optimizer = result.plan.apply(new, torch.optim.SGD(new.parameters(), lr=50.0))
    assert all(torch.equal(a, b) for a, b in zip(start.values(), fresh.state_dict().values(), strict=True))
    assert optimizer.param_groups[0]["lr"] == result.optimizer.param_groups[0]["lr"]
    assert _accuracy(result.model) == pytest.approx(result.score)
    charts = result.report().charts
    assert charts is not None
    assert charts.layers is not None
    assert len(charts.epochs) == result.baseline_epochs, "what is drawn is the training as given"


def test_equal_loops_give_equal_results() -> None:
    def once() -> list[Tensor]:
        model = _mlp()
        torch.manual_seed(5)
        loop = _loop(model, 50.0)
        _train(loop)
        return list(loop.result.model.parameters())

    assert all(torch.equal(a, b) for a, b in zip(once(), once(), strict=True))


def test_structure_inputs_and_loss_are_repaired() -> None:
    torch.manual_seed(0)
    layers = [m for i in range(7) for m in (nn.Linear(10 if i == 0 else 32, 32), nn.Sigmoid())]
    deep = _loop(nn.Sequential(*layers, nn.Linear(32, 2)), 0.05)
    _train(deep)
    assert deep.result.status == "repaired"
    assert deep.result.score > 0.75
    scaled = _loop(_mlp(), 0.1, scale=300.0)
    _train(scaled, scale=300.0)
    assert scaled.result.status == "repaired"
    assert "scale_inputs" in _repairs(scaled)
    softmaxed = _loop(nn.Sequential(_mlp(), nn.Softmax(dim=0)), 0.1)
    _train(softmaxed)
    assert "fix_output_activation" in _repairs(softmaxed)


def test_nonfinite_values_end_the_inner_loop_early() -> None:
    batches = [0]

    def step(loop: Any, batch: Any) -> None:
        batches[0] += loop.attempt == 0
        loop.optimizer.zero_grad()
        loop.loss_fn(loop.model(batch[0]), batch[1]).backward()
        loop.optimizer.step()

    loader = DataLoader(TensorDataset(*(t.repeat(10, *[1] * (t.ndim - 1)) for t in _data())), batch_size=16)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1), nn.Flatten(0))
    loop = _loop(model, 1e3, loader=loader, loss_fn=lambda z, y: F.mse_loss(z, y.float()), epochs=4)
    for _ in loop:
        loop.model.train()
        for batch in loop.train_loader:
            step(loop, batch)
        loop.end_epoch()
    assert batches[0] < len(loader) / 2
    assert {f.problem for f in loop.result.findings} & {"nonfinite", "divergence", "exploding_gradient"}
    assert loop.result.status == "repaired"


def test_stale_objects_raise_until_the_loop_has_ended() -> None:
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
    loop = _loop(model, 0.0, optimizer=optimizer)
    raised = []
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(x), y).backward()
            loop.optimizer.step()
        if loop.attempt == 1 and not raised:
            for use in (optimizer.step, partial(model, x)):
                with pytest.raises(StateError, match=r"replaced by a repair.*loop\."):
                    use()
            raised.append(True)
        loop.end_epoch(val_accuracy=_accuracy(loop.model))
    assert raised
    model(torch.zeros(1, 10))
    optimizer.step()


def _own_batches(loop: Any) -> Iterator[Any]:
    x, y = _data()
    for start in range(0, 384, 32):
        yield x[start : start + 32], y[start : start + 32]


def test_custom_batches_are_counted_by_steps() -> None:
    loop = _loop(_mlp(), 50.0, budget=3)
    for _ in loop:
        loop.model.train()
        for x, y in _own_batches(loop):
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(x), y).backward()
            loop.optimizer.step()
        loop.end_epoch(val_accuracy=_accuracy(loop.model))
    assert loop.result.status == "repaired"
    assert 1 < loop.result.cost <= 3


def _closure(loop: Any, batch: Any) -> None:
    def closure() -> Tensor:
        loop.optimizer.zero_grad()
        loss: Tensor = loop.loss_fn(loop.model(batch[0]), batch[1])
        loss.backward()
        return loss

    loop.optimizer.step(closure)


def _clipped(loop: Any, batch: Any) -> None:
    loop.optimizer.zero_grad()
    loop.loss_fn(loop.model(batch[0]), batch[1]).backward()
    nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)
    loop.optimizer.step()


def _accumulated(loop: Any, batch: Any) -> None:
    loop.optimizer.zero_grad()
    for part in (slice(0, 16), slice(16, None)):
        (loop.loss_fn(loop.model(batch[0][part]), batch[1][part]) / 2).backward()
    loop.optimizer.step()


def _scaled(loop: Any, batch: Any) -> None:
    loop.optimizer.zero_grad()
    loop.scaler.scale(loop.loss_fn(loop.model(batch[0]), batch[1])).backward()
    loop.scaler.unscale_(loop.optimizer)
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()


@pytest.mark.parametrize("step", [_closure, _clipped, _accumulated, _scaled])
def test_loops_of_many_kinds(step: Callable[[Any, Any], None]) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if step is _scaled else None
    loop = _loop(_mlp(), 50.0, scaler=scaler)
    _train(loop, step)
    assert loop.result.status == "repaired"
    assert scaler is None or loop.scaler is not scaler


def test_clipping_of_a_plan_runs_before_the_steps_of_the_user_loop() -> None:
    from autotrainer.backends.pytorch.optim.clipping import clip_before_steps
    from autotrainer.edits import ClipGradients

    parameter = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    handle = clip_before_steps(optimizer, ClipGradients("norm", 1.0))
    parameter.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert torch.allclose(parameter.detach(), torch.tensor([2.4, 3.2]))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (parameter * torch.tensor([30.0, 40.0])).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(parameter.detach(), torch.tensor([1.8, 2.4]))
    handle.remove()
    optimizer.step(closure)
    assert parameter.detach().norm() > 40


@pytest.mark.parametrize("made", [False, True])
def test_schedulers_follow_repairs(made: bool) -> None:
    model = _mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=50.0)

    def schedule(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    scheduler = schedule if made else schedule(optimizer)
    loop = _loop(model, 0.0, optimizer=optimizer, scheduler=scheduler)
    rates: dict[int, list[float]] = {}
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(x), y).backward()
            loop.optimizer.step()
        rates.setdefault(loop.attempt, []).append(loop.optimizer.param_groups[0]["lr"])
        loop.scheduler.step()
        loop.end_epoch(val_accuracy=_accuracy(loop.model))
    assert loop.result.status == "repaired"
    assert loop.scheduler.optimizer is loop.optimizer
    last = rates[loop.attempt]
    assert last == pytest.approx([last[0] * 0.5 ** (epoch // 2) for epoch in range(len(last))])
    assert last[0] < 50


class _Dicts(torch.utils.data.Dataset[Any]):
    def __init__(self) -> None:
        self.x, self.y = _data()

    def __len__(self) -> int:
        return 384

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"features": self.x[row], "label": self.y[row]}


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(10, 32), nn.Linear(32, 2)

    def forward(self, features: Tensor, scale: float = 1.0) -> Tensor:
        return self.last(F.relu(self.first(features * scale)))  # type: ignore[no-any-return]


def test_custom_batch_structure() -> None:
    def step(loop: Any, batch: Any) -> None:
        loop.optimizer.zero_grad()
        loop.loss_fn(loop.model(batch["features"], scale=1.0), batch["label"]).backward()
        loop.optimizer.step()

    loop = _loop(_Two(), 1e3, loader=DataLoader(_Dicts(), batch_size=32, shuffle=True))
    _train(loop, step)
    assert loop.result.status in ("repaired", "improved")
    assert loop.result.score > loop.result.baseline_score


def test_the_budget_is_never_exceeded() -> None:
    for budget in (0.5, 1, 1.6):
        loop = _loop(_mlp(), 1e-6, budget=budget)
        _train(loop)
        assert loop.result.cost <= budget
        assert loop.result.stopped_by == "budget" or loop.result.status == "repaired"


def test_score_of_a_loop() -> None:
    loop = _loop(_mlp(), 0.1, score="f1", epochs=2)
    epochs = iter(loop)
    next(epochs)
    with pytest.raises(InputError, match=r"score='f1'.*val_loss.*end_epoch\(f1"):
        loop.end_epoch(val_loss=1.0)
    silent = _loop(_mlp(), 1e-6, epochs=6)
    for _ in silent:
        silent.model.train()
        for x, y in silent.train_loader:
            silent.optimizer.zero_grad()
            silent.loss_fn(silent.model(x), y).backward()
            silent.optimizer.step()
    assert silent.result.metric == "loss"
    assert silent.result.mode == "min"
    assert silent.result.score < silent.result.baseline_score - 0.1


def test_leaving_the_loop_keeps_the_best_so_far() -> None:
    model = _mlp()
    loop = _loop(model, 0.1)
    for epoch in loop:
        loop.end_epoch(val_accuracy=0.5)
        if epoch == 1:
            break
    assert loop.result.stopped_by == "interrupt"
    assert loop.result.status == "unrepaired"
    assert loop.result.model is model
    again = _loop(_mlp(), 50.0)
    with pytest.raises(ZeroDivisionError):
        _train(again, fail_in=1)
    assert again.result.stopped_by == "interrupt"
    assert again.result.attempts[-1].error == "the loop was left"


def test_calls_at_the_wrong_time() -> None:
    loop = _loop(_mlp(), 0.1, epochs=1)
    with pytest.raises(StateError, match="for epoch in loop"):
        _ = loop.result
    with pytest.raises(StateError, match="end_epoch"):
        loop.end_epoch(val_accuracy=1.0)
    for _ in loop:
        loop.end_epoch(val_accuracy=1.0)
        with pytest.raises(StateError, match="once"):
            loop.end_epoch(val_accuracy=1.0)
    with pytest.raises(StateError, match="create a new one"):
        iter(loop)


def test_bad_input() -> None:
    model = _mlp()
    optimizer, loss, loader = torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), _loader()
    with pytest.raises(InputError, match="optimizer must be"):
        autotrainer.Loop(model, model.parameters(), loss, loader, epochs=1)
    with pytest.raises(InputError, match="owns none"):
        autotrainer.Loop(_mlp(), optimizer, loss, loader, epochs=1)
    with pytest.raises(DataError, match="can be read only once"):
        autotrainer.Loop(model, optimizer, loss, iter(loader), epochs=1)
    with pytest.raises(ConfigError, match="epochs"):
        autotrainer.Loop(model, optimizer, loss, loader, epochs=0)
    other = torch.optim.SGD(_mlp().parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(other, 1)
    with pytest.raises(InputError, match="belongs to another optimizer"):
        autotrainer.Loop(model, optimizer, loss, loader, epochs=1, scheduler=schedule)


def test_error_for_a_keras_model_names_the_alternative() -> None:
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(InputError, match=r"PyTorch.*autotrainer\.fit"):
        autotrainer.Loop(model, None, None, [], epochs=1)


def test_disabled_loop_trains_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    loop = _loop(_mlp(), 50.0)
    assert _train(loop) == [(0, epoch) for epoch in range(EPOCHS)]
    assert not loop.result.findings


def test_without_repair_it_only_watches() -> None:
    loop = _loop(_mlp(), 50.0, repair=False)
    assert _train(loop) == [(0, epoch) for epoch in range(EPOCHS)]
    assert loop.result.status == "unrepaired"
    assert loop.result.findings


def _forgetful(loop: Any, batch: Any) -> None:
    loop.loss_fn(loop.model(batch[0]), batch[1]).backward()
    loop.optimizer.step()


def test_missing_zero_grad_is_restored() -> None:
    model = _mlp()
    loop = _loop(model, 0.0, optimizer=torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9))
    _train(loop, _forgetful)
    assert loop.result.findings[0].problem == "missing_zero_grad"
    assert loop.result.status == "repaired"
    assert "restore_zero_grad" in _repairs(loop)
    assert loop.result.cost <= 2.1, "what is proven is mended in the first attempt"


def test_wrong_mode_is_repaired() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    loop = _loop(model, 0.05, epochs=12)
    modes = {}
    for _ in loop:
        loop.model.eval()  # and never back
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(x), y).backward()
            loop.optimizer.step()
            modes[loop.attempt] = loop.model.training
        loop.end_epoch(val_accuracy=_accuracy(loop.model))
    assert "wrong_training_mode" in {f.problem for f in loop.result.findings}
    assert any("set_mode" in attempt.plan.repairs for attempt in loop.result.attempts) == any(
        f.problem == "wrong_training_mode" and f.severity == "error" for f in loop.result.findings
    )
    assert not modes[0]


def test_missing_parameters_are_added_to_the_optimizer() -> None:
    model = _mlp()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
    loop = _loop(model, 0.0, optimizer=torch.optim.Adam(model[4].parameters(), lr=1e-2))
    _train(loop)
    assert "parameters_not_optimized" in {f.problem for f in loop.result.findings}
    assert loop.result.status == "repaired"
    held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in loop.model.parameters()}
