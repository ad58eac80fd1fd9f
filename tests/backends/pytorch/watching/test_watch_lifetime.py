"""Watching keeps nothing of the user's alive: everything is freed at once, without the garbage collector."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)

X, Y = torch.randn(8, 4), torch.randint(0, 3, (8,))

MODELS = ("net", "parts", "custom state", "attention", "container")
OPTIMIZERS = ("adam", "two", "lbfgs")
LOSSES = ("module", "with tensors", "function")
EVENTS = ("", "open step", "evaluation", "error", "nan", "twice", "callback", "log", "own optimizer", "own loss")
ENDS = ("closed", "closed and deleted", "left open", "left open and deleted")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop, self.last = (
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.1),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.drop(F.relu(self.norm(self.first(x)))))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)


class CustomState(Net):
    def __getstate__(self) -> dict[str, Any]:
        return dict(vars(self))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.attend, self.last = (
            nn.Linear(4, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)[:, None].expand(-1, 3, -1)
        return self.last(self.attend(hidden, hidden, hidden, need_weights=False)[0].mean(1))


def built(kind: str) -> nn.Module:
    if kind == "container":
        return nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 3)])
    return {"net": Net, "parts": Parts, "custom state": CustomState, "attention": Attention}[kind]()


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    if isinstance(model, nn.ModuleList):
        return model[1](torch.relu(model[0](x)))
    return model.last(torch.relu(model.first(x))) if isinstance(model, Parts) else model(x)


def optimizers_of(model: nn.Module, kind: str) -> list[torch.optim.Optimizer]:
    parameters = list(model.parameters())
    if kind == "two":
        return [torch.optim.Adam(parameters[:2]), torch.optim.SGD(parameters[2:], 0.1)]
    if kind == "lbfgs":
        return [torch.optim.LBFGS(parameters, 0.1, max_iter=2)]
    return [torch.optim.Adam(parameters, 0.01)]


def remaining(
    model_kind: str, optimizer_kind: str, steps: int, loss_kind: str, event: str, end: str, folder: Path | None = None
) -> tuple[dict[str, weakref.ref[Any]], Monitor | None]:
    """Train, drop every object, and return weak references to all of them, and the monitor if it is kept."""
    model = built(model_kind)
    optimizers = optimizers_of(model, optimizer_kind)
    loss_fn: Any = {
        "module": nn.CrossEntropyLoss(),
        "with tensors": nn.CrossEntropyLoss(weight=torch.ones(3)),
        "function": F.cross_entropy,
    }[loss_kind]
    options: dict[str, Any] = {"loss_fn": loss_fn, "log_dir": folder if event == "log" else None, "overhead": 1.0}
    if event == "callback" and end.startswith("closed"):
        options["on_finding"] = lambda finding, held=(model, optimizers): None
    monitor: Monitor | None = autotrainer.watch(model, optimizers, **options)
    if event == "twice":
        monitor = autotrainer.watch(model, optimizers, **options)
    assert monitor is not None
    if event == "own optimizer" and end.startswith("closed"):
        model.optimizers = optimizers
    if event == "own loss" and isinstance(loss_fn, nn.Module):
        model.criterion = loss_fn
    x, y, outputs, loss = X.clone(), Y.clone(), None, None
    for step in range(steps + (event in ("open step", "nan"))):
        if event == "nan" and step == steps:
            for parameter in model.parameters():
                parameter.data.fill_(float("nan"))
        if optimizer_kind == "lbfgs":
            optimizers[0].step(lambda: _backward(model, optimizers, loss_fn, x, y))
            continue
        for optimizer in optimizers:
            optimizer.zero_grad()
        outputs = outputs_of(model, x)
        loss = loss_fn(outputs, y)
        if event == "open step" and step == steps:
            break
        loss.backward()
        if loss_kind == "function":
            monitor.log(loss=loss, outputs=outputs, targets=y)
        for optimizer in optimizers:
            optimizer.step()
        if event == "evaluation":
            with torch.no_grad():
                loss_fn(outputs_of(model.eval(), x), y)
            model.train()
    if event == "error":
        with suppress(RuntimeError):
            outputs_of(model, torch.ones(3, 9))
    objects: list[tuple[str, Any]] = [("model", model), ("inputs", x), ("targets", y), *model.named_modules()]
    objects += [*model.named_parameters(), *((f"optimizer {i}", each) for i, each in enumerate(optimizers))]
    objects += [
        ("outputs", outputs),
        ("loss", loss),
        ("loss module", loss_fn if isinstance(loss_fn, nn.Module) else None),
    ]
    references = {name: weakref.ref(item) for name, item in objects if item is not None}
    if end.startswith("closed"):
        monitor.close()
    return references, None if end.endswith("deleted") else monitor


def _backward(model: nn.Module, optimizers: Any, loss_fn: Any, x: Tensor, y: Tensor) -> Tensor:
    optimizers[0].zero_grad()
    loss: Tensor = loss_fn(outputs_of(model, x), y)
    loss.backward()
    return loss


@pytest.fixture
def without_collector() -> Iterator[None]:
    list(optimizers_of(nn.Linear(4, 3), "adam"))  # imports what the first optimizer imports, in frames that stay
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def check(case: tuple[Any, ...], folder: Path) -> None:
    references, monitor = remaining(*case, folder)
    alive = [name for name, reference in references.items() if reference() is not None]
    assert not alive, case
    if monitor is not None:
        assert isinstance(monitor.findings, list)
        assert str(monitor.report())
        monitor.end_epoch(val_loss=1.0)
        monitor.log(loss=1.0)
        monitor.close()


CASES = [
    (model, optimizer, steps, loss, event, end)
    for model in MODELS
    for optimizer in OPTIMIZERS
    for steps in (0, 1, 5, 40)
    for loss in LOSSES
    for event in EVENTS
    for end in ENDS
]


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("end", ENDS)
def test_nothing_stays_alive(end: str, tmp_path: Path, record_property: Any) -> None:
    cases = random.Random(end).sample([case for case in CASES if case[-1] == end and case[2] < 10], 8)
    for number, case in enumerate(cases):
        check(case, tmp_path / str(number))
    record_property("attacks", len(cases))


@pytest.mark.slow
@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("event", EVENTS)
def test_nothing_stays_alive_in_many_trainings(event: str, end: str, tmp_path: Path, record_property: Any) -> None:
    cases = random.Random(event + end).sample([case for case in CASES if case[-2:] == (event, end)], 5)
    for number, case in enumerate(cases):
        check(case, tmp_path / str(number))
    record_property("attacks", len(cases))


@pytest.mark.usefixtures("without_collector")
def test_replaced_monitor_is_freed_though_the_training_goes_on() -> None:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    first = weakref.ref(autotrainer.watch(model, optimizer))
    assert first() is not None
    autotrainer.watch(model, optimizer).close()
    assert first() is None


def test_training_is_watched_to_its_end_though_nobody_keeps_the_monitor_or_the_container() -> None:
    first, last, loss_fn = nn.Linear(4, 8), nn.Linear(8, 3), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD([*first.parameters(), *last.parameters()], 0.1)
    monitor = autotrainer.watch(nn.ModuleList([first, last]), optimizer, loss_fn=loss_fn, overhead=1.0)
    for _ in range(5):
        loss_fn(last(torch.relu(first(X))), Y).backward()
        optimizer.step()
    assert monitor.history.steps.tolist() == [1, 2, 3, 4]


def test_log_of_an_abandoned_training_is_complete(tmp_path: Path) -> None:
    model, loss_fn = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor: Monitor | None = autotrainer.watch(model, optimizer, loss_fn=loss_fn, log_dir=tmp_path)
    assert monitor is not None
    path = monitor.log_path
    assert path is not None
    for _ in range(3):
        loss_fn(model(X), Y).backward()
        optimizer.step()
    monitor = None
    assert '"end"' not in path.read_text()
    del model, optimizer
    assert '"end"' in path.read_text()
    assert autotrainer.replay(path).run["steps"] == 3


_SCRIPT = """
import sys, torch, autotrainer
from torch import nn
torch.set_num_threads(1)
class Noisy:
    def __call__(self, finding): print("finding after the end", finding, file=sys.stderr)
model, loss_fn = nn.Linear(4, 3), nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), 1e30)
monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn, log_dir=sys.argv[1], on_finding=Noisy(), overhead=1e-9)
for _ in range(3):
    loss_fn(model(torch.ones(8, 4)), torch.zeros(8, dtype=torch.long)).backward()
    optimizer.step()
{end}
"""


@pytest.mark.slow
def test_log_is_complete_and_nothing_is_said_at_the_end_of_the_process(tmp_path: Path, run_forked: Any) -> None:
    ends = ["", "sys.exit(0)", "sys.stderr.close()", "monitor.self = monitor", "raise SystemExit", "1 / 0"]
    scripts = [_SCRIPT.format(end="before = sys.stderr.write('-- end --\\n')\n" + end) for end in ends]
    runs = run_forked(*((script, [str(tmp_path / str(number))], {}) for number, script in enumerate(scripts)))
    for number, (end, run) in enumerate(zip(ends, runs, strict=True)):
        said = run.stderr.partition("-- end --\n")[2]
        assert "autotrainer" not in said, end
        assert "finding" not in said, end
        assert ("ZeroDivisionError" in said) == (end == "1 / 0"), end
        (log,) = (tmp_path / str(number)).rglob("*.jsonl*")
        lines = [line for line in log.read_text().splitlines() if '"end"' in line]
        assert len(lines) == 1, end
        assert ('"finished": false' in lines[0].replace('":', '": ').replace("  ", " ")) == (end == "1 / 0"), end
