"""`autotrainer.Loop` in loops of many kinds: with extra state, custom code, or something missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import autotrainer
from autotrainer.errors import InputError, StateError

EPOCHS, ROWS = 6, 384
HIGH, FINE = 50.0, 0.2


def _data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(500, 10, generator=generator), torch.randn(10, generator=generator)
    return x, (x @ w + x[:, 0] * x[:, 1] > 0).long()


X, Y = _data()


def _mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def _loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X[:ROWS], Y[:ROWS]), batch_size=32, shuffle=True, **options)


def _sgd(model: nn.Module, rate: float = HIGH) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=rate)


def _loop(model: nn.Module, optimizer: Any, loss: Any = None, loader: Any = None, **options: Any) -> autotrainer.Loop:
    torch.manual_seed(1)
    given = {"epochs": EPOCHS, "budget": 6, **options}
    return autotrainer.Loop(
        model, optimizer, loss or nn.CrossEntropyLoss(), _loader() if loader is None else loader, **given
    )


def _accuracy(model: Callable[[Tensor], Tensor]) -> float:
    with torch.no_grad():
        return float((model(X[ROWS:]).argmax(1) == Y[ROWS:]).float().mean())


def _step(loop: autotrainer.Loop, x: Tensor, y: Tensor) -> Tensor:
    loop.optimizer.zero_grad()
    loss: Tensor = loop.loss_fn(loop.model(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    loop.optimizer.step()
    return loss.detach()


def _epoch(loop: autotrainer.Loop) -> None:
    loop.model.train()
    for x, y in loop.train_loader:
        _step(loop, x, y)
    loop.model.eval()


# -- whole loops, each with a fault and without ------------------------------------------------------------------------


def lbfgs(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=500.0 if fault else 0.5, max_iter=4)
    loop = _loop(model, optimizer, loader=DataLoader(TensorDataset(X[:ROWS], Y[:ROWS]), batch_size=192))
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:

            def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
                loop.optimizer.zero_grad()
                loss: Tensor = loop.loss_fn(loop.model(x), y)
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            loop.optimizer.step(closure)
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(loop.model))
    return loop


def accumulates(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE), loader=_loader())
    for _ in loop:
        loop.model.train()
        loop.optimizer.zero_grad()
        for number, (x, y) in enumerate(loop.train_loader, 1):
            (loop.loss_fn(loop.model(x), y) / 5).backward()
            if number % 5 == 0 or number == len(loop.train_loader):  # the last part is smaller
                loop.optimizer.step()
                loop.optimizer.zero_grad()
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(loop.model))
    return loop


def scales_and_clips(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    optimizer = torch.optim.Adam(model.parameters(), lr=30.0 if fault else 1e-2)
    loop = _loop(model, optimizer, scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loop.loss_fn(loop.model(x), y)
            loop.scaler.scale(loss).backward()
            loop.scaler.unscale_(loop.optimizer)
            nn.utils.clip_grad_norm_(loop.model.parameters(), 1.0)
            loop.scaler.step(loop.optimizer)
            loop.scaler.update()
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(loop.model))
    return loop


def waits_on_plateaus(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    optimizer = _sgd(model, HIGH if fault else FINE)
    loop = _loop(model, optimizer, scheduler=lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=2))
    for _ in loop:
        _epoch(loop)
        accuracy = _accuracy(loop.model)
        loop.scheduler.step(accuracy)
        loop.end_epoch(accuracy=accuracy)
    return loop


def permutes_rows(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE))
    for _ in loop:
        loop.model.train()
        for rows in torch.randperm(ROWS).split(32):
            _step(loop, X[rows], Y[rows])
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(loop.model))
    return loop


class _Dicts(Dataset[Any]):
    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"x": X[row], "y": Y[row]}


class _Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.head = nn.Linear(5, 16), nn.Linear(5, 16), nn.Linear(32, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        both = torch.cat([self.left(left), self.right(right)], 1)
        return self.head(F.relu(both))  # type: ignore[no-any-return]


def takes_dicts_apart(fault: bool) -> autotrainer.Loop:
    model = _Towers()
    loop = _loop(model, _sgd(model, 500.0 if fault else 1.0), loader=DataLoader(_Dicts(), 32, shuffle=True))
    for _ in loop:
        loop.model.train()
        for batch in loop.train_loader:
            loop.optimizer.zero_grad()
            outputs = loop.model(batch["x"][:, :5], right=batch["x"][:, 5:])
            loop.loss_fn(outputs, batch["y"]).backward()
            loop.optimizer.step()
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(lambda x: loop.model(x[:, :5], x[:, 5:])))
    return loop


class _Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk, self.classes, self.copy = nn.Linear(10, 32), nn.Linear(32, 2), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.trunk(x))
        return self.classes(hidden), self.copy(hidden)


def adds_losses(fault: bool) -> autotrainer.Loop:
    model = _Heads()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE), lambda out, y: F.cross_entropy(out[0], y))
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            out = loop.model(x)
            (loop.loss_fn(out, y) + 0.1 * F.mse_loss(out[1], x)).backward()
            loop.optimizer.step()
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(lambda x: loop.model(x)[0]))
    return loop


def calls_functions(fault: bool) -> autotrainer.Loop:
    def train(model: Any, optimizer: Any, loss_fn: Any, loader: Any) -> float:
        model.train()
        total = 0.0
        for x, y in iter_with_bar(loader):
            optimizer.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        return total / len(loader)

    def iter_with_bar(loader: Any) -> Iterator[Any]:
        assert len(loader) == ROWS // 32
        yield from loader

    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE))
    for _ in loop:
        loss = train(loop.model, loop.optimizer, loop.loss_fn, loop.train_loader)
        loop.model.eval()
        loop.end_epoch(accuracy=torch.tensor(_accuracy(loop.model)), train_loss=loss)
    return loop


def tells_nothing(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE))
    for _ in loop:
        _epoch(loop)
    return loop


class _Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for row in torch.randperm(ROWS).tolist():
            yield X[row] + 0.01 * torch.randn(10), Y[row]


def streams(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH if fault else FINE), loader=DataLoader(_Stream(), batch_size=32))
    for _ in loop:
        _epoch(loop)
        loop.end_epoch(accuracy=_accuracy(loop.model))
    return loop


def groups_and_freezes(fault: bool) -> autotrainer.Loop:
    model = _mlp()
    model[0].requires_grad_(False)
    groups = [{"params": model[2].parameters(), "lr": 5e-3}, {"params": model[4].parameters(), "lr": 5e-2}]
    if fault:
        groups = [{**group, "lr": 1e4 * group["lr"]} for group in groups]  # type: ignore[operator]
    frozen = model[0].weight.detach().clone()
    loop = _loop(model, torch.optim.AdamW(groups))
    for _ in loop:
        _epoch(loop)
        loop.end_epoch(accuracy=_accuracy(loop.model))
    rates = [group["lr"] for group in loop.optimizer.param_groups]
    assert torch.equal(loop.result.model[0].weight, frozen)
    assert fault is False or len(rates) != 2 or rates[1] == pytest.approx(10 * rates[0])
    return loop


LOOPS = (
    lbfgs,
    accumulates,
    scales_and_clips,
    waits_on_plateaus,
    permutes_rows,
    takes_dicts_apart,
    adds_losses,
    calls_functions,
    tells_nothing,
    streams,
    groups_and_freezes,
)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_healthy_loops_are_not_repaired(loop: Callable[[bool], autotrainer.Loop]) -> None:
    result = loop(False).result
    assert result.status == "healthy"
    assert 1 - 1e-6 <= result.cost <= 1.1, (
        "some rows pass through the model to judge it, unless a good score is reported"
    )


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_failing_loops_are_repaired(loop: Callable[[bool], autotrainer.Loop]) -> None:
    result = loop(True).result
    assert result.status in ("repaired", "improved")
    assert result.cost <= 6


# -- schedules ---------------------------------------------------------------------------------------------------------


def _one_cycle(optimizer: Any) -> Any:
    return lr_scheduler.OneCycleLR(optimizer, max_lr=100.0, total_steps=10)


def test_unknown_scheduler_is_refused() -> None:
    model = _mlp()
    optimizer = _sgd(model)
    lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(InputError, match=r"scheduler=.*loop\.scheduler"):
        _loop(model, optimizer)


def test_stale_scheduler_raises_after_a_repair() -> None:
    model = _mlp()
    optimizer = _sgd(model)
    loop = _loop(model, optimizer)
    schedule = lr_scheduler.StepLR(optimizer, 100)

    def train() -> None:
        for _ in loop:
            _epoch(loop)
            schedule.step()
            loop.end_epoch(accuracy=_accuracy(loop.model))

    with pytest.raises(StateError, match=r"'lr'.*loop\.scheduler"):
        train()
    assert loop.attempt == 1
    schedule.step()
    assert type(optimizer.param_groups[0]) is dict


def test_replaced_loss_still_evaluates() -> None:
    loss, model = nn.CrossEntropyLoss(), _mlp()
    loop = _loop(model, _sgd(model), loss)
    raised = False
    for _ in loop:
        _epoch(loop)
        with torch.no_grad():
            value = loss(loop.model(X[ROWS:]), Y[ROWS:])
        if loop.attempt and not raised:
            with pytest.raises(StateError, match=r"loop\.loss_fn"):
                loss(loop.model(X[:8]), Y[:8])
            raised = True
        loop.end_epoch(val_loss=value)
    assert raised
    assert not loss._forward_hooks


# -- what a loop does by itself ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_manually_set_rates_are_not_repaired(decay: float) -> None:
    model = _mlp()
    loop = _loop(model, _sgd(model, HIGH), max_change=0, budget=4)
    for epoch in loop:
        for group in loop.optimizer.param_groups:
            group["lr"] = HIGH * decay**epoch
        _epoch(loop)
        loop.end_epoch(accuracy=_accuracy(loop.model))
    rated = [a for a in loop.result.attempts if {"scale_learning_rate", "swap_optimizer"} & set(a.plan.repairs)]
    assert all("give Loop a scheduler" in str(attempt.error) for attempt in rated)
    assert rated or "give Loop a scheduler" in loop.result.notes["scale_learning_rate"]
    assert not {"scale_learning_rate", "swap_optimizer"} & set(loop.result.plan.repairs if loop.result.plan else ())


def test_second_optimizer_rules_out_repairs() -> None:
    model = _Heads()
    first = torch.optim.SGD([*model.trunk.parameters(), *model.classes.parameters()], lr=HIGH)
    second = torch.optim.SGD(model.copy.parameters(), lr=0.1)
    loop = _loop(model, first)
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            loop.optimizer.zero_grad()
            second.zero_grad()
            classes, copied = loop.model(x)
            (loop.loss_fn(classes, y) + 0.1 * F.mse_loss(copied, x)).backward()
            loop.optimizer.step()
            second.step()
        loop.model.eval()
        loop.end_epoch(accuracy=_accuracy(lambda x: loop.model(x)[0]))
    assert loop.result.status == "unrepaired"
    assert not loop.result.attempts
    assert "trains a part of the model" in loop.result.notes["scale_learning_rate"]


def test_custom_batches_rule_out_edits_of_the_loader() -> None:
    from autotrainer.edits import SetBatchSize

    model = _mlp()
    loops = [_loop(model, _sgd(model, FINE), epochs=1) for _ in range(2)]
    for loop, own in zip(loops, (False, True), strict=True):
        for _ in loop:
            loop.model.train()
            for x, y in _loader() if own else loop.train_loader:
                _step(loop, x, y)
            loop.end_epoch(accuracy=1.0)
            assert bool(loop._trainer.supports(SetBatchSize(64))) is not own


@pytest.mark.parametrize("by_batch", [False, True])
def test_schedule_by_batches_rules_out_another_batch_size(by_batch: bool) -> None:
    from autotrainer.edits import SetBatchSize

    model = _mlp()
    optimizer = _sgd(model, FINE)
    loop = _loop(model, optimizer, scheduler=_one_cycle(optimizer), epochs=1, loader=_loader(drop_last=True))
    for _ in loop:
        _epoch(loop)
        for _ in range(8 if by_batch else 1):
            loop.scheduler.step()
        loop.end_epoch(accuracy=1.0)
    supported = loop._trainer.supports(SetBatchSize(16))
    assert bool(supported) is not by_batch, supported.reason


def test_early_stopping_in_the_user_loop() -> None:
    """`stop` ends a training, and what failed is repaired all the same."""
    model = _mlp()
    loop = _loop(model, _sgd(model), epochs=20)
    with pytest.raises(StateError, match="stop"):
        loop.stop()
    attempt, best, waited = -1, 0.0, 0
    seen: dict[int, int] = {}
    for _ in loop:
        if loop.attempt != attempt:
            attempt, best, waited = loop.attempt, 0.0, 0
        _epoch(loop)
        accuracy = _accuracy(loop.model)
        best, waited = (accuracy, 0) if accuracy > best else (best, waited + 1)
        if waited == 2:
            loop.stop()
        loop.end_epoch(accuracy=accuracy)
        seen[attempt] = seen.get(attempt, 0) + 1
    assert loop.attempt >= 1
    assert loop.result.stopped_by == "done"
    assert loop.result.score > loop.result.baseline_score + 0.1
    assert max(seen.values()) < 20
    with pytest.raises(StateError, match="stop"):
        loop.stop()


def test_truncated_first_epoch_does_not_measure_work() -> None:
    result = adds_losses(True).result
    whole = [attempt.cost for attempt in result.attempts if attempt.epochs is None and attempt.score is not None]
    assert whole[0] == pytest.approx(1)


class _Remembering(nn.Module):
    """Keeps an activation, so that it can't be copied once it has run."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = _mlp()
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.layers(x)
        return self.seen


def test_model_that_becomes_uncopyable_continues() -> None:
    model = _Remembering()
    loop = _loop(model, _sgd(model, FINE), epochs=3)
    for _ in loop:
        loop.model.train()
        for x, y in loop.train_loader:
            _step(loop, x, y)
        loop.end_epoch(accuracy=_accuracy(loop.model.layers))
    assert loop.result.status == "healthy"
