"""Seeing the calls of a loss module."""

from __future__ import annotations

import copy
import functools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.losshook import hook_loss

MODEL = nn.Linear(4, 3)
OUTPUTS, TARGETS = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])


class Calls:
    def __init__(self) -> None:
        self.seen: list[tuple[nn.Module, int, list[str], Any]] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], loss: Any) -> None:
        self.seen.append((module, len(args), sorted(kwargs), loss))


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.ones(3))])
def test_each_call_is_seen_until_removal(loss_fn: nn.Module, calls: Calls) -> None:
    expected = loss_fn(OUTPUTS, TARGETS)
    remove = hook_loss(loss_fn, MODEL, calls)
    first, second = loss_fn(OUTPUTS, TARGETS), loss_fn(OUTPUTS, target=TARGETS)
    remove()
    loss_fn(OUTPUTS, TARGETS)
    assert first.equal(expected)
    assert calls.seen == [(loss_fn, 2, [], first), (loss_fn, 1, ["target"], second)]
    assert not loss_fn._forward_hooks
    assert "forward" not in vars(loss_fn)


def test_a_plain_loss_keeps_its_fast_call(calls: Calls) -> None:
    loss_fn = nn.CrossEntropyLoss()
    hook_loss(loss_fn, MODEL, calls)
    assert not loss_fn._forward_hooks


def test_a_loss_with_tensors_or_in_the_model_follows_replicas(calls: Calls) -> None:
    weighted = nn.CrossEntropyLoss(weight=torch.ones(3))
    inside = nn.Sequential(nn.Linear(4, 3), nn.MSELoss())
    for loss_fn, model in ((weighted, MODEL), (inside[1], inside)):
        hook_loss(loss_fn, model, calls)
        assert "forward" not in vars(loss_fn)
        assert len(loss_fn._forward_hooks) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, lambda loss: pickle.loads(pickle.dumps(loss))])
def test_copies_are_not_seen(again: Any, calls: Calls) -> None:
    loss_fn = nn.CrossEntropyLoss(label_smoothing=0.1)
    hook_loss(loss_fn, MODEL, calls)
    copied = again(loss_fn)
    loss_fn.label_smoothing = 0.0
    assert not copied(OUTPUTS, TARGETS).equal(loss_fn(OUTPUTS, TARGETS))
    assert [module for module, *_ in calls.seen] == [loss_fn]


def test_a_saved_loss_does_not_name_us(calls: Calls) -> None:
    loss_fn = nn.MSELoss()
    hook_loss(loss_fn, MODEL, calls)
    assert b"autotrainer" not in pickle.dumps(loss_fn)


def test_wrapped_again_it_sees_nothing_after_removal(calls: Calls) -> None:
    loss_fn = nn.MSELoss()
    remove = hook_loss(loss_fn, MODEL, calls)
    ours = loss_fn.forward

    @functools.wraps(ours)
    def theirs(x: Tensor, y: Tensor) -> Tensor:
        return 2 * ours(x, y)

    vars(loss_fn)["forward"] = theirs
    remove()
    assert loss_fn.forward is theirs
    assert float(loss_fn(torch.ones(2), torch.zeros(2))) == 2
    assert calls.seen == []


def test_an_error_of_the_loss_stays_as_it_is(calls: Calls) -> None:
    loss_fn = nn.CrossEntropyLoss()
    hook_loss(loss_fn, MODEL, calls)
    with pytest.raises(ValueError, match="batch_size"):
        loss_fn(OUTPUTS, TARGETS[:3])
    assert calls.seen == []
