"""Hours of training, in simulated time, with a fault each minute: the monitor never changes it, and outlives it all."""

from __future__ import annotations

import copy
import errno
import gc
import hashlib
import io
import logging
import os
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import autotrainer
import autotrainer.backends.pytorch.watching.attach  # before its clock is replaced
from autotrainer.monitoring.sampler import Sampler
from autotrainer.rule import Rule

STEPS = 2
"""Training steps in a simulated minute."""


class RefusedError(Exception):
    """Raised by the user's code, and caught there."""


class Net(nn.Module):
    """A small classifier; ``fault`` is raised in the middle of the forward pass."""

    fault: BaseException | None = None

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 12), nn.BatchNorm1d(12), nn.Linear(12, 8)
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm(self.first(x)))
        if self.fault is not None:
            raise self.fault
        out: torch.Tensor = self.head(self.drop(torch.tanh(self.second(hidden))))
        return out


class Training:
    """A user's training, watched or not."""

    def __init__(self, log_dir: Path | None) -> None:
        torch.manual_seed(0)
        self.random = np.random.default_rng(0)
        self.model, self.loss_fn = Net(), nn.CrossEntropyLoss()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-3)
        self.good = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        self.log_dir, self.monitor = log_dir, None
        self.on_finding_raises = False
        self.watch()

    def watch(self) -> None:
        """Watch the model, again if it is watched already."""
        if self.log_dir is not None:
            self.monitor: Any = autotrainer.watch(
                self.model, self.optimizer, loss_fn=self.loss_fn, log_dir=self.log_dir, on_finding=self._on_finding
            )

    def _on_finding(self, finding: autotrainer.Finding) -> None:
        if self.on_finding_raises:
            raise RefusedError

    def batch(self, rows: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.random.normal(size=(rows, 6)).astype(np.float32)
        return torch.from_numpy(x), torch.from_numpy((x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 1))

    def step(self, x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> None:
        self.optimizer.zero_grad()
        loss = self.loss_fn(self.model(x), y) * scale
        loss.backward()
        self.optimizer.step()

    def minute(self) -> None:
        for _ in range(STEPS):
            with suppress(RefusedError):
                self.step(*self.batch())

    def evaluate(self) -> float:
        self.model.eval()
        with torch.no_grad():
            x, y = self.batch(32)
            loss = float(self.loss_fn(self.model(x), y))
        self.model.train()
        return loss

    def end_minute(self) -> str:
        """Return to the last good state if the training has diverged, and return a digest of everything."""
        tensors = [*self.model.state_dict().values()]
        if all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            self.good = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        else:
            self.model.load_state_dict(self.good[0])
            self.optimizer.load_state_dict(self.good[1])
        digest = hashlib.sha256()
        for tensor in (*self.model.state_dict().values(), torch.get_rng_state()):
            digest.update(tensor.numpy().tobytes())
        for state in self.optimizer.state_dict()["state"].values():
            for value in state.values():
                digest.update(value.numpy().tobytes())
        digest.update(repr((np.random.get_state()[1][:4], random.getstate()[1][:4])).encode())  # type: ignore[index]
        return digest.hexdigest()


# -- faults: each runs a minute of the training around or after it ---------------------------------------------------


def _values(value: float) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        x, y = t.batch()
        x[3, 2] = value
        t.step(x, y)

    return fault


def _attribute(change: Callable[[Training], Callable[[], None]]) -> Callable[[Training], None]:
    """Return a fault that changes something for a minute."""

    def fault(t: Training) -> None:
        undo = change(t)
        try:
            t.minute()
        finally:
            undo()

    return fault


def _patched(context: Callable[[Training], Any]) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        with context(t):
            t.minute()

    return fault


def _rate(factor: float) -> Callable[[Training], None]:
    def change(t: Training) -> Callable[[], None]:
        rates = [group["lr"] for group in t.optimizer.param_groups]
        for group in t.optimizer.param_groups:
            group["lr"] *= factor

        def undo() -> None:
            for group, rate in zip(t.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

        return undo

    return _attribute(change)


def _freeze(t: Training) -> Callable[[], None]:
    t.model.second.requires_grad_(False)
    return lambda: t.model.second.requires_grad_(True) and None


def _evaluation_mode(t: Training) -> Callable[[], None]:
    t.model.eval()
    return lambda: t.model.train() and None


def _raise_in_forward(error: BaseException) -> Callable[[Training], None]:
    def fault(t: Training) -> None:
        t.model.fault = error
        try:
            with suppress(RefusedError, KeyboardInterrupt, MemoryError):
                t.step(*t.batch())
        finally:
            t.model.fault = None

    return fault


def _raise_in_backward(t: Training) -> None:
    def refuse(grad: torch.Tensor) -> None:
        raise RefusedError

    handle = t.model.second.weight.register_hook(refuse)
    with suppress(RefusedError):
        t.step(*t.batch())
    handle.remove()


def _loader_error(t: Training) -> None:
    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield t.batch()
        raise OSError(errno.EIO, "the disk is gone")

    with suppress(OSError):
        for x, y in batches():
            t.step(x, y)


def _empty_batch(t: Training) -> None:
    with suppress(ValueError):  # batch normalization
        t.step(*t.batch(0))
    t.model.eval()
    t.loss_fn(t.model(t.batch(0)[0]), t.batch(0)[1])
    t.model.train()


def _bad_targets(t: Training) -> None:
    x, y = t.batch()
    with suppress(IndexError):
        t.step(x, y + 7)


def _remove_hooks(t: Training) -> None:
    for module in (*t.model.modules(), t.loss_fn):
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
        module._backward_hooks.clear()
    t.optimizer._optimizer_step_post_hooks.clear()
    t.minute()
    t.watch()


def _replace_module(t: Training) -> None:
    head = nn.Linear(8, 3)
    head.load_state_dict(t.model.head.state_dict())
    old, t.model.head = t.model.head, head
    t.optimizer.add_param_group({"params": list(head.parameters())})
    t.minute()
    t.model.head = old
    del t.optimizer.param_groups[-1]
    for parameter in head.parameters():
        t.optimizer.state.pop(parameter, None)


def _restore_optimizer(t: Training) -> None:
    t.optimizer.load_state_dict(copy.deepcopy(t.optimizer.state_dict()))
    t.minute()
    t.optimizer.state.clear()
    t.minute()


def _save_and_copy(t: Training) -> None:
    torch.save((t.model.state_dict(), t.optimizer.state_dict()), io.BytesIO())
    torch.save(t.model, io.BytesIO())
    copy.deepcopy(t.model)(t.batch()[0])
    t.minute()


def _fork(t: Training) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    t.minute()


def _near_recursion_limit(t: Training) -> None:
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    limit = sys.getrecursionlimit()

    def down(levels: int) -> None:
        if levels:
            down(levels - 1)
        else:
            t.minute()

    sys.setrecursionlimit(depth + 1000)
    try:
        down(800)
    finally:
        sys.setrecursionlimit(limit)


def _in_thread(t: Training) -> None:
    thread = threading.Thread(target=t.minute)
    thread.start()
    thread.join()


def _accumulate(t: Training) -> None:
    t.optimizer.zero_grad()
    for _ in range(3):
        t.loss_fn(t.model(t.batch()[0]), t.batch()[1]).backward()
    t.optimizer.step()


def _closure(t: Training) -> None:
    x, y = t.batch()

    def closure() -> torch.Tensor:
        t.optimizer.zero_grad()
        loss: torch.Tensor = t.loss_fn(t.model(x), y)
        loss.backward()
        return loss

    t.optimizer.step(closure)


def _inference(t: Training) -> None:
    with torch.inference_mode():
        t.model(t.batch()[0])
    with torch.no_grad():
        t.model(t.batch()[0])
    t.minute()


def _double(t: Training) -> None:
    x, y = t.batch()
    t.model.double()
    t.loss_fn(t.model(x.double()), y)
    t.model.float()
    t.minute()


def _ask(t: Training) -> None:
    if t.monitor is not None:
        for answer in (
            t.monitor.findings,
            t.monitor.should_stop,
            str(t.monitor.report()),
            t.monitor.report().to_json(),
        ):
            assert answer is not None
    t.minute()


def _end_epoch(t: Training) -> None:
    loss = t.evaluate()
    if t.monitor is not None:
        t.monitor.end_epoch(val_loss=loss)
    t.minute()


def _rule_raises(t: Training) -> None:
    class Broken(Rule):
        problem, code, needs = "broken", "AT999", frozenset({"loss"})

        def check(self, *_: Any) -> None:
            raise RefusedError

    if t.monitor is not None:
        t.monitor._engine._rules.append(Broken())
    _end_epoch(t)


@contextmanager
def _on_finding_raises(t: Training) -> Iterator[None]:
    t.on_finding_raises = True
    yield
    t.on_finding_raises = False


@contextmanager
def _full_disk(t: Training) -> Iterator[None]:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    if t.monitor is not None and t.monitor._log._log is not None:
        t.monitor._log._log._lines.file.close()
        t.monitor._log._log._lines.file = Full()
    yield


@contextmanager
def _broken_stderr(t: Training) -> Iterator[None]:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    stderr, sys.stderr = sys.stderr, Broken()
    try:
        yield
    finally:
        sys.stderr = stderr


@contextmanager
def _strict(t: Training) -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        yield


@contextmanager
def _no_collection(t: Training) -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@contextmanager
def _profiled(t: Training) -> Iterator[None]:
    sys.setprofile(lambda *_: None)
    yield
    sys.setprofile(None)


@contextmanager
def _default_type(t: Training) -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@contextmanager
def _logging_off(t: Training) -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _watch_again(t: Training) -> None:
    t.watch()
    t.minute()


def _close_and_watch(t: Training) -> None:
    if t.monitor is not None:
        t.monitor.close()
    t.minute()
    t.watch()


FAULTS: dict[str, Callable[[Training], None]] = {
    "nan in a batch": _values(float("nan")),
    "infinity in a batch": _values(float("inf")),
    "huge value in a batch": _values(1e30),
    "huge loss": lambda t: t.step(*t.batch(), scale=1e30),
    "loss of zero": lambda t: t.step(*t.batch(), scale=0.0),
    "learning rate up": _rate(1e3),
    "learning rate down": _rate(1e-6),
    "frozen layer": _attribute(_freeze),
    "evaluation mode": _attribute(_evaluation_mode),
    "exception in forward": _raise_in_forward(RefusedError()),
    "Ctrl-C in forward": _raise_in_forward(KeyboardInterrupt()),
    "no memory in forward": _raise_in_forward(MemoryError()),
    "exception in backward": _raise_in_backward,
    "loader error": _loader_error,
    "empty batch": _empty_batch,
    "targets out of range": _bad_targets,
    "hooks removed": _remove_hooks,
    "module replaced": _replace_module,
    "optimizer state replaced": _restore_optimizer,
    "saved and copied": _save_and_copy,
    "near the recursion limit": _near_recursion_limit,
    "other thread": _in_thread,
    "accumulated gradients": _accumulate,
    "closure": _closure,
    "inference": _inference,
    "double precision and back": _double,
    "asked for findings": _ask,
    "end of an epoch": _end_epoch,
    "rule raises": _rule_raises,
    "on_finding raises": _patched(_on_finding_raises),
    "full disk": _patched(_full_disk),
    "broken stderr": _patched(_broken_stderr),
    "warnings are errors": _patched(_strict),
    "no garbage collection": _patched(_no_collection),
    "profiled": _patched(_profiled),
    "default type": _patched(_default_type),
    "logging off": _patched(_logging_off),
    "anomaly detection": _patched(lambda t: torch.autograd.set_detect_anomaly(True, check_nan=False)),
    "half precision": _patched(lambda t: torch.autocast("cpu", torch.bfloat16)),
    "watched again": _watch_again,
    "closed and watched": _close_and_watch,
    **({"fork": _fork} if hasattr(os, "fork") else {}),
}


def _train(minutes: int, log_dir: Path | None, clock: Any) -> tuple[Training, list[tuple[str, str]]]:
    """Train for so many simulated minutes, with a fault in each; return a digest of everything after each minute."""
    plan = np.random.default_rng(minutes)
    names = [*FAULTS, "clock jumps forward", "clock jumps back"]
    training, digests = Training(log_dir), []
    objects: list[int] = []
    for minute in range(minutes):
        name = names[minute % len(names)] if minute < len(names) else str(plan.choice(names))
        training.minute()
        if name.startswith("clock"):  # at one of the next readings of the clock, which may be in a measurement
            clock.jump(7200.0 if name.endswith("forward") else -1800.0, after=int(plan.integers(1, 40)))
            training.minute()
        else:
            FAULTS[name](training)
        digests.append((name, training.end_minute()))
        clock.advance(60.0)
        if minute % 60 == 59:
            training.evaluate()
        if minute in (minutes // 2, minutes - 1):
            gc.collect()
            objects.append(len(gc.get_objects()))
        if training.monitor is not None:
            sampler = training.monitor.sampler
            assert isinstance(sampler, Sampler)
            assert 0 <= sampler.spent < float("inf"), name
            assert len(training.monitor.history.steps) < 2000, "the history is bounded"
    assert objects[-1] - objects[0] < 20_000, "nothing piles up"
    return training, digests


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("minutes", [60, pytest.param(3 * 60, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # fork beside threads, from Python 3.12 on
@pytest.mark.filterwarnings("ignore:Anomaly Detection:UserWarning")
def test_hours_of_faults_change_nothing(
    minutes: int,
    tmp_path: Path,
    simulated_clock: Any,
    caplog: pytest.LogCaptureFixture,
    record_property: Any,
) -> None:
    with ExitStack() as stack:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        _, plain = _train(minutes, None, simulated_clock)
        training, watched = _train(minutes, tmp_path / "log", simulated_clock)
    first = next((a for a, b in zip(plain, watched, strict=True) if a != b), None)
    assert first is None, "the first minute after which the training differs"
    record_property("attacks", minutes)
    training.watch()
    with torch.no_grad():
        training.model.head.weight.fill_(float("nan"))
    training.minute()
    training.monitor.close()
    assert "nonfinite" in {finding.problem for finding in training.monitor.findings}, "it still works"
    size = sum(file.stat().st_size for file in (tmp_path / "log").iterdir())
    assert size < 3_000 * STEPS * 2 * minutes, "the logs are bounded"
    assert "watching the PyTorch training failed" not in caplog.text
