"""Copies in host memory. Without an accelerator, host tensors are treated as remote ones: the code path is the same."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.backends.pytorch.runtime import host_offload
from autotrainer.backends.pytorch.runtime.host_offload import copied, copied_to_host


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        self.inner[2].weight = self.inner[0].weight
        self.inner[0].bias.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.inner(x)


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_offload, "is_remote", lambda tensor: True)


@pytest.mark.usefixtures("remote")
def test_links_values_and_states_survive_the_round_trip() -> None:
    model, optimizer = trained()
    host, places = copied_to_host((model, optimizer, None))
    back = copied(host, places)
    assert len(places) == len(set(model.parameters())) + len(list(model.buffers())) + 3 * len(optimizer.state)
    for copy, copy_optimizer, nothing in (host, back):
        assert nothing is None
        assert all(t.device.type == "cpu" for t in (*copy.parameters(), *copy.buffers()))
        assert copy.inner[2].weight is copy.inner[0].weight
        assert not copy.inner[0].bias.requires_grad
        assert {id(p) for p in copy_optimizer.param_groups[0]["params"]} == {id(p) for p in copy.parameters()}
        given, found = model.state_dict(), copy.state_dict()
        assert all(torch.equal(given[name], found[name]) for name in given)
        assert not any(given[name].data_ptr() == found[name].data_ptr() for name in given)
        for mine, theirs in zip(optimizer.state.values(), copy_optimizer.state.values(), strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.usefixtures("remote")
def test_new_tensor_is_not_mistaken_for_a_deleted_one() -> None:
    model = nn.BatchNorm1d(4)
    host, places = copied_to_host((model,))
    gone = weakref.ref(host[0].running_mean)
    host[0].running_mean = torch.zeros(4)
    gc.collect()
    assert gone() is not None, "its id would be free for another tensor"
    assert host[0].running_mean not in places
    assert len(places) == 5
    assert torch.equal(copied(host, places)[0].running_mean, torch.zeros(4))


def test_host_tensors_are_copied() -> None:
    model, optimizer = trained()
    host, places = copied_to_host((model, optimizer))
    assert places == {}
    assert torch.equal(host[0].inner[0].weight, model.inner[0].weight)


def test_trainings_from_host_copies_are_bit_identical(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")

    def weights() -> list[np.ndarray[Any, Any]]:
        model, optimizer = trained()
        result = autotrainer.fit(
            model, (x, x), loss=nn.MSELoss(), optimizer=optimizer, epochs=3, repair=False, progress=False
        )
        return [p.detach().numpy() for p in result.model.parameters()]

    usual = weights()
    monkeypatch.setattr(host_offload, "is_remote", lambda tensor: True)
    assert all(np.array_equal(a, b) for a, b in zip(usual, weights(), strict=True))
