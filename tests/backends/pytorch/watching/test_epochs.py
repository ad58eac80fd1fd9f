"""Epochs of plain loops: counted by loaders, full batches and evaluations, with or without ``end_epoch``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import autotrainer
from autotrainer.backends.pytorch.watching.epochs import watched_epochs
from autotrainer.monitoring.logs.log_reader import EpochRecord, LossesRecord, read_log
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records import history_tables

torch.set_num_threads(1)

EPOCHS, ROWS, BATCH = 5, 24, 6
X, Y = torch.randn(ROWS, 4), torch.randint(0, 2, (ROWS,))
DATA = TensorDataset(X, Y)
HELD_OUT = DataLoader(DATA, 12)


class Loop:
    """A training whose parts the tests put together."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.loss_fn = nn.CrossEntropyLoss()
        self.held: Iterator[Any] = iter(())

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss_fn(self.model(x), y).backward()
        self.optimizer.step()

    def validate(self) -> None:
        with torch.no_grad():
            for x, y in HELD_OUT:
                self.loss_fn(self.model(x), y)

    def score(self) -> None:
        with torch.no_grad():
            for x, _ in HELD_OUT:
                self.model(x).argmax(1)


def loader(loop: Loop) -> Iterator[None]:
    batches = DataLoader(DATA, BATCH, shuffle=True)
    for _ in range(EPOCHS):
        for x, y in batches:
            loop.step(x, y)
        yield


def new_loaders(loop: Loop) -> Iterator[None]:
    for _ in range(EPOCHS):
        for x, y in DataLoader(DATA, BATCH, shuffle=True):
            loop.step(x, y)
        loop.validate()
        yield


def loader_and_validation_within(loop: Loop) -> Iterator[None]:
    batches = DataLoader(DATA, BATCH)
    for _ in range(EPOCHS):
        for index, (x, y) in enumerate(batches):
            loop.step(x, y)
            if index == 1:
                loop.model.eval()
                for x, y in HELD_OUT:  # with gradients
                    loop.loss_fn(loop.model(x), y)
                loop.model.train()
        yield


def held_iterator(loop: Loop) -> Iterator[None]:
    batches = DataLoader(DATA, BATCH)
    iterator = iter(batches)
    for step in range(EPOCHS * ROWS // BATCH):
        if step and step % (ROWS // BATCH) == 0:
            iterator = iter(batches)
        loop.step(*next(iterator))
        if (step + 1) % (ROWS // BATCH) == 0:
            if step + 1 == EPOCHS * ROWS // BATCH:
                del iterator
            yield


def held_until_the_end(loop: Loop) -> Iterator[None]:
    batches = DataLoader(DATA, BATCH)
    for _ in range(EPOCHS):
        loop.held = iter(batches)
        for _ in range(ROWS // BATCH):
            loop.step(*next(loop.held))
        yield


def two_loaders(loop: Loop) -> Iterator[None]:
    halves = [DataLoader(TensorDataset(X[rows], Y[rows]), BATCH) for rows in torch.arange(ROWS).split(ROWS // 2)]
    for _ in range(EPOCHS):
        for batches in halves:
            for x, y in batches:
                loop.step(x, y)
        yield


def slices(loop: Loop) -> Iterator[None]:
    for _ in range(EPOCHS):
        for rows in torch.randperm(ROWS).split(BATCH):
            loop.step(X[rows], Y[rows])
        yield


def slices_and_validation(loop: Loop) -> Iterator[None]:
    for _ in slices(loop):
        loop.validate()
        yield


def slices_and_score(loop: Loop) -> Iterator[None]:
    for _ in slices(loop):
        loop.score()
        yield


def slices_and_mode(loop: Loop) -> Iterator[None]:
    for _ in slices(loop):
        loop.model.eval()
        loop.model.train()
        yield


def watched(script: Callable[[Loop], Iterator[None]], *, ends_epochs: bool = False) -> Monitor:
    loop = Loop()
    with autotrainer.watch(loop.model, loop.optimizer, loss_fn=loop.loss_fn, select=()) as monitor:
        for _ in script(loop):
            if ends_epochs:
                monitor.end_epoch()
    return monitor


@pytest.mark.parametrize("ends_epochs", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        loader,
        new_loaders,
        loader_and_validation_within,
        held_iterator,
        held_until_the_end,
        two_loaders,
        slices_and_validation,
        slices_and_score,
        slices_and_mode,
    ],
)
def test_number_of_epochs_does_not_depend_on_end_epoch(
    script: Callable[[Loop], Iterator[None]], ends_epochs: bool
) -> None:
    history = watched(script, ends_epochs=ends_epochs).history
    per_epoch = ROWS // BATCH
    assert history.epoch == EPOCHS
    assert history.epoch_ends.tolist() == [per_epoch * (epoch + 1) - 1 for epoch in range(EPOCHS)]


def test_validation_loader_with_persistent_workers_does_not_feed_the_training() -> None:
    batches, held_out = (DataLoader(DATA, BATCH, num_workers=1, persistent_workers=True) for _ in range(2))

    def script(loop: Loop) -> Iterator[None]:
        for _ in range(2):
            for index, (x, y) in enumerate(batches):
                loop.step(x, y)
                if index < 2:
                    loop.model.eval()
                    for x, y in held_out:  # with gradients
                        loop.loss_fn(loop.model(x), y)
                    loop.model.train()
            yield

    assert watched(script).history.epoch_ends.tolist() == [ROWS // BATCH - 1, 2 * ROWS // BATCH - 1]


def test_pass_without_gradients_in_each_step_ends_no_epoch() -> None:
    def script(loop: Loop) -> Iterator[None]:
        for _ in range(10):
            for rows in torch.randperm(ROWS).split(BATCH):
                with torch.no_grad():
                    targets = loop.model(X[rows]).argmax(1)
                loop.step(X[rows], targets)
        yield

    assert watched(script).history.epoch == 0


def test_rows_that_are_chosen_from_the_same_inputs_are_no_full_batch() -> None:
    class Chosen(nn.Sequential):
        def forward(self, x: Tensor, rows: Tensor) -> Tensor:
            outputs: Tensor = super().forward(x[rows])
            return outputs

    loop = Loop()
    loop.model = Chosen(*loop.model)
    with autotrainer.watch(loop.model, loop.optimizer, loss_fn=loop.loss_fn, select=()) as monitor:
        for rows in torch.randperm(ROWS).split(4) * 10:
            loop.optimizer.zero_grad()
            loop.loss_fn(loop.model(X, rows), Y[rows]).backward()
            loop.optimizer.step()
    assert monitor.history.epoch == 0


@pytest.mark.parametrize("epochs", [None, 2])
def test_full_batches_are_no_epochs_where_the_loop_has_fewer(epochs: int | None, tmp_path: Path) -> None:
    loop = Loop()
    options: dict[str, Any] = {"loss_fn": loop.loss_fn, "select": (), "epochs": epochs, "log_dir": tmp_path}
    with autotrainer.watch(loop.model, loop.optimizer, **options) as monitor:
        for _ in range(2):
            for _ in range(60):
                loop.step(X, Y)
            monitor.end_epoch(val_loss=1.0)
    assert monitor.history.epoch_ends.tolist() == [59, 119]
    assert (monitor.history.epoch, len(monitor.history.epochs("val_loss")[0])) == (2, 2)
    assert "(2 epochs)" in str(autotrainer.replay(monitor.log_path))


def test_epochs_that_nothing_shows_are_not_counted() -> None:
    assert watched(slices).history.epoch == 0


@pytest.mark.parametrize("every", [None, 1, 10])
def test_step_on_all_rows_is_an_epoch(every: int | None) -> None:
    def script(loop: Loop) -> Iterator[None]:
        for step in range(80):
            loop.step(X, Y)
            if every is not None and (step + 1) % every == 0:
                loop.validate()
        yield

    history = watched(script).history
    assert history.epoch_ends.tolist() == list(range(80))
    assert len(history.epochs("val_loss")[0]) == (0 if every is None else 80 // every)


def test_validation_losses_are_those_of_the_evaluation_at_the_end() -> None:
    ended, counted = (watched(slices_and_validation, ends_epochs=ends).history for ends in (True, False))
    assert ended.epochs("val_loss")[0].tolist() == counted.epochs("val_loss")[0].tolist() == list(range(EPOCHS))


def test_interrupted_pass_is_not_an_epoch() -> None:
    loop = Loop()
    batches = DataLoader(DATA, BATCH)
    monitor = autotrainer.watch(loop.model, loop.optimizer, select=())
    with suppress(ZeroDivisionError), monitor:
        for _ in range(2):
            for index, (x, y) in enumerate(batches):
                loop.step(x, y)
                if monitor.history.epoch and index == 1:
                    raise ZeroDivisionError
    assert monitor.history.epoch == 1


def test_nothing_stays_patched() -> None:
    before = DataLoader.__iter__, nn.Module.train
    watched(loader)
    assert (DataLoader.__iter__, nn.Module.train) == before


def test_sparse_inputs_switch_nothing_off(tmp_path: Path) -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.out = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.out(torch.sparse.mm(x, self.weight).relu())
            return outputs

    loop = Loop()
    loop.model = Sparse()  # type: ignore[assignment]
    loop.optimizer = torch.optim.SGD(loop.model.parameters(), 0.1)
    with autotrainer.watch(loop.model, loop.optimizer, loss_fn=loop.loss_fn, log_dir=tmp_path) as monitor:
        for _ in range(6):
            loop.step(X.to_sparse(), Y)
    assert not monitor._failed
    assert monitor.history.steps[0] == 0
    assert monitor.history.scalar("input_mean")[0] == pytest.approx(float(X.mean()), abs=1e-5)


@pytest.mark.parametrize("end", ["", "loop", "evaluation"])
def test_log_grows_more_slowly_than_the_number_of_epochs(
    end: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(history_tables, "_EPOCHS", 16)
    monkeypatch.setattr(watched_epochs, "_EPOCHS_WITH_LOSSES", 16)
    monkeypatch.setattr(watched_epochs, "_EPOCHS_WITH_VALUES", 8)
    loop, sizes = Loop(), []
    with autotrainer.watch(
        loop.model, loop.optimizer, loss_fn=loop.loss_fn, select=("AT1", "AT3"), log_dir=tmp_path
    ) as monitor:
        for step in range(256):
            loop.step(X, Y)
            if end == "evaluation":
                loop.validate()
            elif end:
                monitor.end_epoch(val_loss=1 / (1 + step))
            if step + 1 in (64, 128, 256):
                types = [type(record) for record in read_log(str(monitor.log_path))]
                sizes.append(types.count(EpochRecord) + types.count(LossesRecord))
    assert monitor.history.epoch == 256
    assert len(monitor.history.ended_epochs) < 20
    assert sizes[2] - sizes[1] < 90, "of the last 128 epochs"
    report = autotrainer.replay(str(monitor.log_path), select=("AT1", "AT3"))
    assert str(report) == str(monitor.report())
