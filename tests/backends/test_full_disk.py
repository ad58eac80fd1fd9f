"""A full disk: results, reports, logs and journals of both frameworks."""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.edits import SetLearningRate
from autotrainer.errors import InputError, LogError
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report
from autotrainer.reporting.result import Attempt, Result

KIB = 1024
FRAMEWORKS = ("pytorch", "keras3")


def make_model(framework: str) -> Any:
    """Return a model of some 40 KiB."""
    if framework == "pytorch":
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    hidden = [keras.layers.Dense(64, "relu") for _ in range(2)]
    return keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(3)])


def make_result(framework: str, *, with_plan: bool = True) -> Result:
    plan = RepairPlan(("scale_learning_rate",), (SetLearningRate(0.01),), framework=framework)
    attempts = [Attempt(plan, 0.75, None, (), 1.0)] * 20
    history = {"loss": [1.0 / n for n in range(1, 300)]}
    chosen = plan if with_plan else None
    model = make_model(framework)
    return Result("repaired", "done", model, None, history, 0.75, 0.5, None, None, [], chosen, attempts)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*")}


def assert_loads(folder: Path, framework: str) -> None:
    """Check that every file of a result is whole."""
    for name in ("attempts.json", "report.json"):
        json.loads((folder / name).read_text())
    assert (folder / "report.html").read_text().rstrip().endswith("</html>")
    if framework == "pytorch":
        weights = torch.load(folder / "weights.pt")
        make_model(framework).load_state_dict(weights)
        whole = torch.load(folder / "model.pt", weights_only=False)
        assert all(torch.equal(value, weights[name]) for name, value in whole["model"].state_dict().items())
    else:
        keras.models.load_model(folder / "model.keras")


def save_or_fail(result: Result, folder: Path, framework: str, before: dict[str, bytes], reason: str) -> bool:
    """Save a result and return whether that worked; the folder has all new files, or is as it was."""
    try:
        result.save(folder)
    except InputError as error:
        assert bytes_of(folder) == before
        message = str(error)
        assert reason in message
        assert message.isprintable()
        assert ".autotrainer-" not in message
        return False
    assert_loads(folder, framework)
    assert set(before) - set(bytes_of(folder)) <= (set() if result.plan else {"plan.json"})
    return True


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let every file that gets larger fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Disk:
    """A small disk of its own, which can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def leave(self, size: int) -> None:
        """Leave free space for this many bytes."""
        with self._filler.open("wb", buffering=0) as file:
            status = os.statvfs(self.folder)
            file.write(b"x" * max(0, status.f_bavail * status.f_frsize - size))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[..., Disk]]:
    """Makes a small disk; skips the test where that is not permitted."""
    mounted: list[Path] = []

    def make(size: int = 8192 * KIB, inodes: int = 0) -> Disk:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "none", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("mounting a disk is not permitted")
        mounted.append(folder)
        return Disk(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


# -- Result.save ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [512 * KIB, pytest.param(256 * KIB, marks=pytest.mark.slow)])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_result_on_a_full_disk(step: int, framework: str, make_disk: Callable[..., Disk], record_property: Any) -> None:
    disk = make_disk()
    folder = disk.folder / "out"
    make_result(framework).save(folder)
    before = bytes_of(folder)
    needed = sum(map(len, before.values()))
    result, saved, attacks = make_result(framework, with_plan=False), [], 0
    for size in range(0, 2 * needed, step):
        disk.leave(size)
        saved.append(save_or_fail(result, folder, framework, before, os.strerror(errno.ENOSPC)))
        attacks += not saved[-1]
        disk.free()
        make_result(framework).save(folder)
        before = bytes_of(folder)
    assert saved == sorted(saved), "it fails until there is room"
    assert saved[0] is False
    assert saved[-1] is True
    record_property("attacks", attacks)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_result_on_a_disk_without_inodes(framework: str, make_disk: Callable[..., Disk], record_property: Any) -> None:
    attacks = 0
    for inodes in range(1, 18):
        disk = make_disk(inodes=inodes)
        if save_or_fail(make_result(framework), disk.folder / "out", framework, {}, os.strerror(errno.ENOSPC)):
            break
        attacks += 1
    assert attacks >= 5
    record_property("attacks", attacks)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_result_with_limited_files(framework: str, tmp_path: Path, record_property: Any) -> None:
    make_result(framework).save(tmp_path)
    before = bytes_of(tmp_path)
    result, attacks = make_result(framework), 0
    sizes = sorted({*map(len, before.values()), *range(0, 8 * KIB, KIB), *range(0, 80 * KIB, 8 * KIB)})
    for size in sizes:
        with limited_files(size - 1 if size else 0):
            saved = save_or_fail(result, tmp_path, framework, before, os.strerror(errno.EFBIG))
        if saved:
            break
        attacks += 1
    assert attacks >= 10
    record_property("attacks", attacks)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("suffix", [".html", ".json", ".txt"])
def test_report_with_limited_files(framework: str, suffix: str, tmp_path: Path, record_property: Any) -> None:
    report = make_result(framework).report()
    path = tmp_path / f"report{suffix}"
    path.write_text("old")
    sizes = range(0, 1200, 100)
    for size in sizes:
        with limited_files(size), pytest.raises(InputError, match="File too large; free some space"):
            report.save(path)
        assert bytes_of(tmp_path) == {path.name: b"old"}
    record_property("attacks", len(sizes))


def test_unpicklable_model_on_a_full_disk(make_disk: Callable[..., Disk], record_property: Any) -> None:
    disk = make_disk()
    folder = disk.folder / "out"
    result = make_result("pytorch")
    result.model.extra = lambda: None
    result.save(folder)
    assert set(torch.load(folder / "model.pt")) == {"state_dict"}
    before = bytes_of(folder)
    sizes = range(0, 100 * KIB, 8 * KIB)
    for size in sizes:
        disk.leave(size)
        with pytest.raises(InputError, match="No space left"):
            result.save(folder)
        assert bytes_of(folder) == before
    record_property("attacks", len(sizes))


# -- logs and journals ------------------------------------------------------------------------------------------------


def small_model(framework: str) -> tuple[Any, dict[str, Any]]:
    """Return a model that does not learn, with loss and optimizer."""
    if framework == "pytorch":
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 2))
        return model, {"loss": nn.CrossEntropyLoss(), "optimizer": torch.optim.SGD(model.parameters(), 1e-4)}
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(8, "sigmoid") for _ in range(2)]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(2)])
    return model, {"loss": loss, "optimizer": keras.optimizers.SGD(1e-4)}


X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def train_watched(framework: str, folder: Path) -> None:
    model, arguments = small_model(framework)
    if framework == "pytorch":
        loss_fn, optimizer = arguments["loss"], arguments["optimizer"]
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, log_dir=folder) as monitor:
            for _ in range(8):
                for rows in range(0, 200, 10):
                    x, y = (torch.from_numpy(a[rows : rows + 10]) for a in (X, Y))
                    optimizer.zero_grad()
                    loss_fn(model(x), y).backward()
                    optimizer.step()
                monitor.end_epoch(val_loss=0.5)
    else:
        model.compile(**arguments)
        with autotrainer.watch(model, log_dir=folder):
            model.fit(X, Y, batch_size=10, epochs=8, verbose=0)


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the warnings as text: records would hold the errors and, by them, files that were not closed."""
    texts: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("autotrainer")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [handler])
    yield texts
    gc.collect()


NOT_CLOSED = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@NOT_CLOSED
@pytest.mark.parametrize("size", [8 * KIB, *(pytest.param(size, marks=pytest.mark.slow) for size in (0, 4 * KIB))])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_goes_on_without_its_log(
    framework: str, size: int, make_disk: Callable[..., Disk], messages: list[str], record_property: Any
) -> None:
    disk = make_disk()
    disk.leave(size)
    train_watched(framework, disk.folder)
    (message,) = (message for message in messages if "run log" in message)
    assert "No space left on device" in message
    (log,) = disk.folder.glob("*.jsonl")
    assert log.stat().st_size <= size
    if size:
        assert isinstance(autotrainer.replay(log), Report)
    else:
        with pytest.raises(LogError):
            autotrainer.replay(log)
    record_property("attacks", 1)


@NOT_CLOSED
@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_fit_goes_on_without_its_journal_and_resumes(
    framework: str, make_disk: Callable[..., Disk], messages: list[str], record_property: Any
) -> None:
    def fit(**options: Any) -> list[Any]:
        model, arguments = small_model(framework)
        result = autotrainer.fit(model, (X, Y), epochs=3, budget=3.0, progress=False, **arguments, **options)
        state = result.model.state_dict().values() if framework == "pytorch" else result.model.get_weights()
        return [result.status, result.score, [a.to_dict() for a in result.attempts], [w.tolist() for w in state]]

    whole, disk = fit(), make_disk()
    sizes = (0, 4 * KIB, 16 * KIB, 48 * KIB) if framework == "pytorch" else (16 * KIB,)  # the file is the same
    for size in sizes:
        for log in disk.folder.glob("*.jsonl"):
            log.unlink()
        for resume in (False, True):
            disk.leave(size)
            assert fit(log_dir=disk.folder, resume=resume) == whole
            assert sum("can't be written" in message for message in messages) <= 1
            messages.clear()
        disk.free()
        assert fit(log_dir=disk.folder, resume=True) == whole
    record_property("attacks", 3 * len(sizes))
