"""Sampled steps keep no tensor alive, compute no parametrized weight, and survive parameters of unusual kinds."""

from __future__ import annotations

import io
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim.lr_scheduler import StepLR

import autotrainer
from autotrainer.backends.pytorch.model import ties
from autotrainer.monitoring.monitor import Monitor

torch.set_num_threads(1)


def test_tensors_that_the_loop_deletes_are_freed() -> None:
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    scheduler = StepLR(optimizer, 100)
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn):
        for _ in range(3):
            outputs = model(torch.randn(5, 4))
            loss = loss_fn(outputs, torch.randn(5, 1)) + outputs.square().mean()
            loss.backward()
            optimizer.step()
            alive = weakref.ref(outputs), weakref.ref(loss)
            del outputs, loss
            assert [reference() for reference in alive] == [None, None]
    scheduler.step()


def test_variables_that_the_function_reads_itself_stay() -> None:
    model, loss_fn = nn.Linear(4, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    variables = locals()
    exec("added = 1")
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn):
        (loss_fn(model(torch.randn(5, 4)), torch.randn(5, 1)) + model.weight.sum()).backward()
        optimizer.step()
    assert variables["model"] is model
    assert variables["added"] == 1


def trained(table: nn.Module, *, watch: bool) -> tuple[dict[str, Tensor], Monitor | None]:
    torch.manual_seed(0)
    model, loss_fn = nn.Sequential(table, nn.Flatten(), nn.Linear(12, 2)), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monitor = autotrainer.watch(model, optimizer, loss_fn=loss_fn) if watch else None
    for _ in range(4):
        optimizer.zero_grad()
        loss_fn(model(torch.randint(0, 20, (8, 2))), torch.randint(0, 2, (8,))).backward()
        optimizer.step()
    if monitor is not None:
        monitor.close()
    return model.state_dict(), monitor


def test_parametrized_embedding_is_not_computed_again() -> None:
    tables = []
    for _ in range(2):
        torch.manual_seed(0)
        tables.append(spectral_norm(nn.Embedding(20, 6)))
    plain, watched = (trained(table, watch=watch)[0] for table, watch in zip(tables, (False, True), strict=True))
    assert all(torch.equal(plain[name], watched[name]) for name in plain)


class SparseLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 2)
        self.table = nn.Embedding(50, 6, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(self.table(x).mean(1))


class EighthPrecision(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 2)
        self.weight = nn.Parameter(torch.randn(6, 32).to(torch.float8_e4m3fn), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((x @ self.weight.float().t()).relu())


@pytest.mark.parametrize(
    ("model", "inputs", "rows"),
    [
        (SparseLast, lambda: torch.randint(0, 50, (8, 3)), 8),
        (EighthPrecision, lambda: torch.randn(8, 32), 8),
        (
            lambda: nn.Sequential(
                nn.Conv1d(3, 4, 3), nn.InstanceNorm1d(4, affine=True), nn.Flatten(0), nn.Linear(24, 2)
            ),
            lambda: torch.randn(3, 8),
            0,
        ),
    ],
    ids=["sparse gradient", "float8", "sample without batch"],
)
def test_all_steps_are_measured(model: Callable[[], nn.Module], inputs: Callable[[], Tensor], rows: int) -> None:
    trained_model, loss_fn = model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(trained_model.parameters(), 0.1)
    with autotrainer.watch(trained_model, optimizer, loss_fn=loss_fn) as monitor:
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(trained_model(inputs()), torch.randint(0, 2, (rows,) if rows else ())).backward()
            optimizer.step()
    assert len(monitor.history.steps) == 3
    assert monitor.history.scalar("backward_passes")[-1] == 1


def test_saving_a_loss_does_not_warn() -> None:
    model, loss_fn = nn.Linear(3, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with warnings.catch_warnings(), autotrainer.watch(model, optimizer, loss_fn=loss_fn):
        warnings.simplefilter("error")
        loss = loss_fn(model(torch.randn(4, 3)), torch.randn(4, 1))
        torch.save({"loss": loss}, io.BytesIO())


def test_only_matrices_of_the_shape_of_a_table_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[torch.Size] = []
    monkeypatch.setattr(ties, "_is_copy", lambda weight, table: bool(compared.append(weight.shape)))
    ties.Ties(nn.ModuleList([nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10), nn.Linear(10, 8)]))
    assert sorted(compared) == [(8, 10), (10, 8)]
