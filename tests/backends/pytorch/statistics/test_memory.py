"""What a sampled step allocates beyond the training itself, counted by operations."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import autotrainer
from autotrainer.backends.pytorch.runtime import observation as observation_module
from autotrainer.backends.pytorch.statistics.stats import (
    activation_columns,
    activation_numbers,
    nonzero_counts,
    norms,
    silent_units,
)

torch.set_num_threads(1)

MIB = 1 << 20


class Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make, as long as these live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        before = {_storage(t)._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = function(*args, **kwargs)
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = _storage(tensor)
                if storage._cdata not in before and storage._cdata not in self._storages:
                    self._storages.add(storage._cdata)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, key: int, size: int) -> None:
        if key in self._storages:
            self._storages.remove(key)
            self.live -= size


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


@contextmanager
def counted_observations(monkeypatch: pytest.MonkeyPatch) -> Iterator[Allocations]:
    """Count what operations allocate while the watching observes, and nothing else."""
    allocations, depth = Allocations(), [0]
    kind = observation_module.observation
    enter, leave = kind.__enter__, kind.__exit__

    def counting_enter(self: Any) -> bool:
        records = enter(self)
        depth[0] += 1
        if depth[0] == 1:
            allocations.__enter__()
        return records

    def counting_leave(self: Any, *error: Any) -> None:
        depth[0] -= 1
        if not depth[0]:
            allocations.__exit__(None, None, None)
        leave(self, *error)

    monkeypatch.setattr(observation_module, "dispatch_modes", lambda: 0)
    monkeypatch.setattr(kind, "__enter__", counting_enter)
    monkeypatch.setattr(kind, "__exit__", counting_leave)
    yield allocations


def test_half_precision_is_never_copied_as_a_whole() -> None:
    tensors = [torch.ones(1000, 1100, dtype=torch.bfloat16) for _ in range(12)] + [
        torch.ones(1000, 3000, dtype=torch.bfloat16).t(),
        torch.ones(300, 300, dtype=torch.float16),
    ]
    with Allocations() as allocations:
        lengths, counts = norms(tensors), nonzero_counts(tensors)
    assert allocations.peak < 10 * MIB
    for tensor, length, count in zip(tensors, lengths, counts, strict=True):
        assert float(length) == pytest.approx(tensor.numel() ** 0.5)
        assert int(count) == tensor.numel()


def activation_statistics(output: Tensor, channels: int) -> list[float]:
    """Return the columns of the layer table of an output of ReLU."""
    numbers = activation_numbers(output, "relu", 0, channels)
    columns = activation_columns(np.array([[np.nan if number is None else float(number) for number in numbers]]))
    return list(columns[0].tolist())


@pytest.mark.parametrize("shape", [(60_000, 64), (256, 256, 64), (64, 16, 64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_activations_are_reduced_on_a_part_but_for_their_extremes(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    output = torch.randn(shape).relu().to(dtype)
    channels = 1 if output.ndim > 3 else output.ndim - 1
    output.select(channels, 3).zero_()
    output.view(-1)[1234567] = 50.0
    with Allocations() as allocations:
        mean, std, largest, spread, _, dormant = activation_statistics(output, channels)
        silent = silent_units(output, channels)
    assert allocations.peak < 24 * MIB
    assert largest == 50.0
    assert mean == pytest.approx(float(output.float().mean()), rel=0.02)
    assert std == pytest.approx(float(output.float().std()), rel=0.02)
    assert spread == pytest.approx(float(output.float().var(0, unbiased=False).mean().sqrt()), rel=0.03)
    assert dormant == pytest.approx(1 / output.shape[channels])
    assert silent.nonzero().flatten().tolist() == [3]
    output.view(-1)[7654 * 99] = float("nan")
    assert np.isinf(activation_statistics(output, channels)[:3]).all()


@pytest.mark.slow
def test_a_sampled_step_takes_two_percent_of_the_model_and_64_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = [part for _ in range(10) for part in (nn.Linear(2048, 2048), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(2048, 10)).bfloat16()
    optimizer, loss_fn = torch.optim.SGD(model.parameters(), 0.01), nn.CrossEntropyLoss()
    x, y = torch.randn(2048, 2048, dtype=torch.bfloat16), torch.randint(0, 10, (2048,))
    watched = partial(autotrainer.watch, model, optimizer, loss_fn=loss_fn, overhead=1, log_dir=None)
    with counted_observations(monkeypatch) as allocations, watched() as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    assert len(monitor.history.steps) == 3
    size = sum(p.nbytes for p in model.parameters())
    assert 0 < allocations.peak <= 0.02 * size + 64 * MIB
