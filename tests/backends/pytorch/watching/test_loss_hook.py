"""Each call of a loss module is observed, and the module stays unchanged."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.watching.losses.loss_hook import hook_loss_calls

X, Y = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1])


class OwnCall(nn.Module):
    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return 2 * super().__call__(*args, **kwargs)

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loss = nn.CrossEntropyLoss()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.loss(x, y)


class OwnCopy(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        copied = OwnCopy.__new__(OwnCopy)
        vars(copied).update(copy.deepcopy(vars(self), memo))
        return copied

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.sum()


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "plain": nn.CrossEntropyLoss,
    "weighted": lambda: nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
    "own call": OwnCall,
    "own copy": OwnCopy,
}


@pytest.mark.parametrize("name", LOSSES)
def test_calls_are_observed_until_removed(name: str) -> None:
    loss = LOSSES[name]()
    before, value, seen = sorted(vars(loss)), loss(X, Y), []
    handle = hook_loss_calls(loss, lambda module, args, kwargs, output: seen.append((module, args, kwargs, output)))
    assert torch.equal(loss(X, Y), value)
    assert torch.equal(loss(X, targets=Y) if name.startswith("own") else loss(X, target=Y), value)
    assert [entry[0] is loss for entry in seen] == [True, True]
    assert [len(entry[1]) for entry in seen] == [2, 1]
    assert [len(entry[2]) for entry in seen] == [0, 1]
    handle.remove()
    handle.remove()
    assert torch.equal(loss(X, Y), value)
    assert len(seen) == 2
    assert sorted(vars(loss)) == before


@pytest.mark.parametrize("first", [0, 1])
def test_two_observers_of_one_loss(first: int) -> None:
    loss = nn.CrossEntropyLoss()
    seen: list[int] = []
    handles = [hook_loss_calls(loss, lambda *_, number=number: seen.append(number)) for number in (0, 1)]  # type: ignore[misc]
    loss(X, Y)
    assert sorted(seen) == [0, 1]
    handles[first].remove()
    loss(X, Y)
    assert sorted(seen) == sorted([0, 1, 1 - first])
    handles[1 - first].remove()
    loss(X, Y)
    assert len(seen) == 3
    assert vars(loss).keys() == vars(nn.CrossEntropyLoss()).keys()


def test_two_models_can_share_a_loss(caplog: pytest.LogCaptureFixture) -> None:
    loss = nn.MSELoss()
    models = [nn.Linear(2, 1), nn.Linear(2, 1)]
    optimizers = [torch.optim.SGD(m.parameters(), 0.01) for m in models]
    monitors = [autotrainer.watch(m, o, loss_fn=loss) for m, o in zip(models, optimizers, strict=True)]
    for _ in range(3):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            loss(model(X), torch.zeros(2, 1)).backward()
            optimizer.step()
    for monitor in monitors:
        monitor.close()
        assert len(monitor.history.steps) == 3
    assert "compiled" not in caplog.text


def test_user_hooks_run_and_their_output_is_observed() -> None:
    loss = nn.CrossEntropyLoss()
    loss.register_forward_hook(lambda module, args, output: 10 * output)
    seen: list[Tensor] = []
    value, handle = loss(X, Y), hook_loss_calls(loss, lambda module, args, kwargs, output: seen.append(output))
    assert torch.equal(loss(X, Y), value)
    handle.remove()
    assert torch.equal(seen[0], value)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "shallow": copy.copy,
    "deep": copy.deepcopy,
    "saved": lambda loss: torch.load(_saved(loss), weights_only=False),
    "scripted": lambda loss: torch.jit.script(loss),
}


def _saved(loss: nn.Module) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(loss, file)
    assert b"autotrainer" not in file.getvalue()
    file.seek(0)
    return file


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("build", [nn.CrossEntropyLoss, Holder])
@pytest.mark.parametrize("name", COPIES)
def test_copies_are_not_observed(name: str, build: Callable[[], nn.Module]) -> None:
    whole = build()
    loss = getattr(whole, "loss", whole)
    seen: list[Any] = []
    handle = hook_loss_calls(loss, lambda *entry: seen.append(entry))
    value = whole(X, Y)
    made = COPIES[name](whole)
    if not (name == "shallow" and build is Holder):  # that one shares the loss
        assert torch.equal(made(X, Y), value)
        assert len(seen) == 1
    handle.remove()


def test_copy_of_a_class_with_custom_copying_computes() -> None:
    loss = OwnCopy()
    handle = hook_loss_calls(loss, lambda *_: None)
    copied = copy.deepcopy(loss)
    handle.remove()
    assert torch.equal(copied(X, Y), loss(X, Y))


def test_a_replica_computes_with_its_own_tensors() -> None:
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]))
    handle = hook_loss_calls(loss, lambda *_: None)
    replica = loss._replicate_for_data_parallel()
    replica.weight = torch.tensor([5.0, 1.0])
    assert not torch.equal(replica(X, Y), loss(X, Y))
    handle.remove()


def test_loss_that_the_user_compiles_meanwhile_stays_compiled() -> None:
    loss = nn.CrossEntropyLoss()
    handle = hook_loss_calls(loss, lambda *_: None)
    loss.compile(backend="eager")
    compiled = loss._compiled_call_impl
    handle.remove()
    assert loss._compiled_call_impl is compiled


def test_a_step_compiled_with_its_loss_is_one_graph() -> None:
    loss, graphs = nn.CrossEntropyLoss(), []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    step = torch.compile(lambda x, y: loss(x, y), backend=backend, fullgraph=True)
    handle = hook_loss_calls(loss, lambda *_: None)
    values = [step(X, Y) for _ in range(3)]
    handle.remove()
    assert torch.equal(values[-1], loss(X, Y))
    assert len(graphs) == 1
