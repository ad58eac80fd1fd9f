"""Copies and saved files of watched objects equal those of unwatched ones."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import autotrainer
from autotrainer.backends.pytorch.runtime.hooks import add_hook

torch.set_num_threads(1)

X, Y = torch.randn(6, 4), torch.tensor([0, 1, 1, 0, 1, 0])


class OwnLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.inner = nn.CrossEntropyLoss()

    def forward(self, outputs: Tensor, targets: Tensor) -> Any:
        return self.inner(outputs, targets) * self.scale


class OwnState(nn.Linear):
    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "saved_by": "its own code"}


def saved(item: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(item, buffer)
    return buffer.getvalue()


def reloaded(item: Any) -> Any:
    return torch.load(io.BytesIO(saved(item)), weights_only=False)


WAYS: dict[str, Callable[[Any], Any]] = {
    "save": reloaded,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
    "pickle": lambda item: pickle.loads(pickle.dumps(item)),
    "old pickle": lambda item: pickle.loads(pickle.dumps(item, 0)),
}


def attributes(module: nn.Module) -> list[dict[str, Any]]:
    """Everything that its parts hold, tensors and modules aside."""
    parts: list[dict[str, Any]] = []
    for part in module.modules():
        found = {
            name: value for name, value in vars(part).items() if name not in ("_parameters", "_buffers", "_modules")
        }
        parts.append(found)
    return parts


@pytest.mark.parametrize("steps", [0, 40])
@pytest.mark.parametrize(
    "loss_fn",
    [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.ones(2)), OwnLoss()],
    ids=["plain", "weighted", "own"],
)
@pytest.mark.parametrize("way", WAYS)
def test_copies_and_saved_files_equal_those_without_hooks(way: str, loss_fn: nn.Module, steps: int) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    before = attributes(copy.deepcopy(model)), attributes(copy.deepcopy(loss_fn))
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=()) as monitor:
        for _ in range(steps):
            optimizer.zero_grad()
            loss_fn(model(X), Y).backward()
            optimizer.step()
        copied, copied_loss, copied_optimizer = (WAYS[way](item) for item in (model, loss_fn, optimizer))
        assert (attributes(copied), attributes(copied_loss)) == before
        assert torch.equal(copied_loss(copied(X), Y), loss_fn(model(X), Y))
        assert copied_optimizer.state_dict().keys() == optimizer.state_dict().keys()
        copied_optimizer.step()
        for item in (model, loss_fn, optimizer):
            torch.load(io.BytesIO(saved(item.state_dict())), weights_only=True)
        assert monitor._observer._counter.step == steps  # type: ignore[union-attr]
    assert (attributes(model), attributes(loss_fn)) == before


@pytest.mark.parametrize("way", ["save", "deepcopy", "pickle"])
def test_class_with_custom_pickling(way: str) -> None:
    model = OwnState(4, 2)
    with autotrainer.watch(model, torch.optim.SGD(model.parameters(), 0.1), select=()):
        assert b"autotrainer" not in pickle.dumps(model).replace(__name__.encode(), b"")
        copied = WAYS[way](model)
        assert copied.saved_by == "its own code"
        assert torch.equal(copied(X), model(X))


def test_user_hooks_are_copied() -> None:
    seen: list[str] = []
    model = nn.Linear(4, 2)
    model.register_forward_hook(lambda *_: seen.append("theirs"))
    first = add_hook(model, lambda *_: seen.append("ours"), always_call=True)
    second = add_hook(model, lambda *_: seen.append("before"), before=True)
    copied = copy.deepcopy(model)
    copied(X)
    assert seen == ["theirs"]
    model(X)
    assert seen == ["theirs", "before", "theirs", "ours"]
    first.remove()
    assert copy.deepcopy(model)._forward_pre_hooks == {}
    second.remove()
    assert "__getstate__" not in vars(model)
    assert len(copied._forward_hooks) == len(model._forward_hooks) == 1


def test_hooks_surround_calls_in_their_order_and_leave_nothing() -> None:
    model, order = nn.Linear(4, 2), []
    before = attributes(model)
    handles = [
        add_hook(model, lambda *_: order.append("after"), with_kwargs=True),
        add_hook(model, lambda *_: order.append("before"), before=True),
        add_hook(model, lambda *_: order.append("always"), always_call=True),
    ]
    model(X)
    assert order == ["before", "after", "always"]
    with pytest.raises(RuntimeError):
        model(X[:, :3])
    assert order[3:] == ["before", "always"]
    assert all(handle.registered for handle in handles)
    for handle in handles:
        handle.remove()
        handle.remove()
    assert not any(handle.registered for handle in handles)
    assert attributes(model) == before


def test_a_replica_has_no_hooks_and_computes_with_its_own_tensors() -> None:
    model, calls = nn.Linear(4, 2), []
    handle = add_hook(model, lambda *_: calls.append(1))
    replica = model._replicate_for_data_parallel()
    replica.weight, replica.bias = torch.zeros(2, 4), torch.zeros(2)
    assert not replica(X).any()
    assert not calls
    model(X)
    assert calls == [1]
    handle.remove()
    assert "_replicate_for_data_parallel" not in vars(model)
