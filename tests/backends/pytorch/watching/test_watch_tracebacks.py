"""Errors of the user's code are the same objects with the same tracebacks as without watching."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import autotrainer
from autotrainer.monitoring.sampler import Sampler

torch.set_num_threads(1)

ROOT = Path(autotrainer.__file__).resolve().parents[1]
OURS = tuple(str(ROOT / name) for name in ("autotrainer", "backends"))
X, Y = torch.randn(8, 4), torch.randint(0, 3, (8,))
WRONG = torch.ones(3, 99)


def _from_cause(hidden: Tensor) -> None:
    try:
        F.linear(hidden, WRONG)
    except RuntimeError as error:
        raise KeyError("from") from error


def _in_context(hidden: Tensor) -> None:
    try:
        F.linear(hidden, WRONG)
    except RuntimeError:
        raise KeyError("while handling")  # noqa: B904 - the context is what is tested


def _suppressed(hidden: Tensor) -> None:
    try:
        F.linear(hidden, WRONG)
    except RuntimeError:
        raise KeyError("alone") from None


def _raise(error: BaseException) -> None:
    raise error


FORWARD: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "own error": lambda model, hidden: _raise(ValueError("mine")),
    "interrupt": lambda model, hidden: _raise(KeyboardInterrupt()),
    "exit": lambda model, hidden: _raise(SystemExit(3)),
    "stop iteration": lambda model, hidden: next(iter(())),
    "cause": lambda model, hidden: _from_cause(hidden),
    "context": lambda model, hidden: _in_context(hidden),
    "suppressed context": lambda model, hidden: _suppressed(hidden),
    "torch function": lambda model, hidden: F.linear(hidden, WRONG),
    "method": lambda model, hidden: hidden @ WRONG,
    "activation": lambda model, hidden: torch.relu("x"),  # type: ignore[arg-type]
    "layer": lambda model, hidden: model.last(WRONG),
    "group": lambda model, hidden: _raise(ExceptionGroup("several", [ValueError("one")])),
}
ELSEWHERE = ("inputs", "targets", "own loss", "backward", "optimizer", "detached", "user hook")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.fault: Callable[[nn.Module, Tensor], Any] | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.first(x))
        if self.fault is not None:
            self.fault(self, hidden)
        return self.last(hidden)


class FaultyBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise ZeroDivisionError("backward")


class FaultyOptimizer(torch.optim.SGD):
    fault = False

    def step(self, closure: Any = None) -> Any:
        if self.fault:
            raise OSError("optimizer")
        return super().step(closure)


class FaultyLoss(nn.CrossEntropyLoss):
    fault = False

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.fault:
            raise LookupError("loss")
        return super().forward(outputs, targets)


def error_of(name: str, at: int, *, watched: bool, caught: bool) -> BaseException:
    """Return the error that a training raises in one step, caught in that step or after the block of `watch`."""
    torch.manual_seed(0)
    model, loss_fn = Net(), FaultyLoss()
    optimizer = FaultyOptimizer(model.parameters(), 0.1)

    def step(faulty: bool) -> None:
        x, y = X, Y
        if faulty:
            model.fault = FORWARD.get(name)
            optimizer.fault, loss_fn.fault = name == "optimizer", name == "own loss"
            x, y = WRONG if name == "inputs" else X, Y[:3] if name == "targets" else Y
            if name == "user hook":
                model.first.register_forward_hook(lambda *_: _raise(IndexError("hook")))
        optimizer.zero_grad()
        outputs = model(x)
        loss = loss_fn(FaultyBackward.apply(outputs) if faulty and name == "backward" else outputs, y)
        (loss.detach() if faulty and name == "detached" else loss).backward()
        optimizer.step()

    context: Any = autotrainer.watch(model, optimizer, loss_fn=loss_fn, overhead=1.0) if watched else nullcontext()
    try:
        with context:
            for _ in range(at):
                step(faulty=False)
            try:
                step(faulty=True)
            except BaseException as error:
                if caught:
                    return error
                raise
    except BaseException as error:  # noqa: BLE001 - interrupts, too
        return error
    raise AssertionError("nothing was raised")


def described(error: BaseException | None) -> list[Any]:
    """Type, text and flags of an error, of its causes and contexts, with the user's frames; no frame is ours."""
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        assert not [frame for frame in frames if frame.filename.startswith(OURS)]
        users = [(frame.name, frame.line) for frame in frames if frame.filename == __file__]
        chain = error.__suppress_context__, error.__cause__ is None, error.__context__ is None
        parts.append((type(error), str(error), repr(error.args), chain, users))
        error = error.__cause__ or error.__context__
    return parts


def check(name: str, at: int, caught: bool) -> None:
    assert described(error_of(name, at, watched=True, caught=caught)) == described(
        error_of(name, at, watched=False, caught=caught)
    )


STAY_UNTIL_THE_END = ("interrupt", "exit", "targets", "own loss")
"""An interrupt runs no hook, and the call of the loss is replaced: their frames go when the error leaves the block."""


@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "not sampled"])
@pytest.mark.parametrize("name", [*FORWARD, *ELSEWHERE])
def test_errors_that_leave_the_block(
    name: str, sampled: bool, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    record_property("attacks", 1)
    if not sampled:
        monkeypatch.setattr(Sampler, "due", lambda self, step: False)
    check(name, 2, caught=False)


@pytest.mark.parametrize("name", [each for each in (*FORWARD, *ELSEWHERE) if each not in STAY_UNTIL_THE_END])
def test_errors_that_are_caught_in_the_loop(name: str, record_property: Any) -> None:
    record_property("attacks", 1)
    check(name, 0, caught=True)


def test_the_error_is_the_same_object() -> None:
    error = ValueError("mine")
    model = Net()
    model.fault = lambda module, hidden: _raise(error)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match="mine") as raised, autotrainer.watch(model, optimizer):
        model(X)
    assert raised.value is error
    assert error.__context__ is None
    assert error.__cause__ is None
