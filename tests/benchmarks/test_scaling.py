"""The formulas of `docs/costs.md` against operations that are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import autotrainer
from autotrainer.backends.pytorch.runtime import observation as observation_module
from benchmarks.overhead.scaling import Activation, Model, bytes_read, operations, simulated_stall, tables

VIEWS = ("view", "reshape", "detach", "slice", "select", "transpose", "t.", "permute", "alias", "unsqueeze", "expand")
VIEWS += ("as_strided", "split", "_unsafe_view", "squeeze", "_local_scalar", "unbind")


class Operations(TorchDispatchMode):
    """Counts operations that are no views, and the bytes of their inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.read = self.depth = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not str(function).removeprefix("aten.").startswith(VIEWS):
            self.count += 1
            self.read += sum(t.nbytes for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("blocks", "width", "rows"), [(4, 64, 32), (16, 64, 64), (6, 256, 32), (12, 32, 512)])
def test_formulas_hold_within_ten_percent(blocks: int, width: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted, waits = Operations(), []
    kind, cpu = observation_module.observation, torch.Tensor.cpu
    enter, leave = kind.__enter__, kind.__exit__

    def counting_enter(self: Any) -> bool:
        records = enter(self)
        counted.depth += 1
        if counted.depth == 1:
            counted.__enter__()
        return records

    def counting_leave(self: Any, *error: Any) -> None:
        counted.depth -= 1
        if not counted.depth:
            counted.__exit__(None, None, None)
        leave(self, *error)

    monkeypatch.setattr(observation_module, "dispatch_modes", lambda: 0)
    monkeypatch.setattr(kind, "__enter__", counting_enter)
    monkeypatch.setattr(kind, "__exit__", counting_leave)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: waits.append(1) or cpu(self))
    torch.manual_seed(0)
    layers = [part for _ in range(blocks) for part in (nn.Linear(width, width), nn.ReLU())]
    network = nn.Sequential(*layers, nn.Linear(width, 4))
    optimizer, loss_fn = torch.optim.Adam(network.parameters(), 1e-3), nn.CrossEntropyLoss()
    x, y = torch.randn(rows, width), torch.randint(0, 4, (rows,))
    with autotrainer.watch(network, optimizer, loss_fn=loss_fn, overhead=1, log_dir=None, select=()):
        for _ in range(12):
            counted.count = counted.read = 0
            waits.clear()
            optimizer.zero_grad()
            loss_fn(network(x), y).backward()
            optimizer.step()
    outputs = Activation(rows * width, blocks), Activation(rows * width, blocks, silent=True), Activation(rows * 4, 1)
    model = Model(((width * (width + 1), blocks), (4 * (width + 1), 1)), outputs)
    assert counted.read == pytest.approx(bytes_read(model), rel=0.1)
    assert counted.count == pytest.approx(operations(model), rel=0.1)
    assert len(waits) == 5


def test_a_stall_does_not_grow_with_ranks_that_sample_the_same_steps() -> None:
    alone, together, apart = (
        simulated_stall(ranks, step=1.0, cost=0.5, jitter=0.05, together=same)
        for ranks, same in ((1, True), (64, True), (64, False))
    )
    assert together < 1.1 * alone
    assert apart > 10 * alone


def test_the_page_shows_the_tables() -> None:
    page = (Path(__file__).parents[2] / "docs" / "costs.md").read_text(encoding="utf-8")
    assert all(table in page for table in tables().split("\n\n"))
