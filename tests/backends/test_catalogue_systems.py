"""Half precision, data loader workers and distributed replicas end to end, with and without problems."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import autotrainer
from autotrainer.cli import main
from autotrainer.errors import LogError
from autotrainer.records.findings import Finding, Severity

torch.set_num_threads(1)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 8)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.float32)


# -- loss_scale_collapse ----------------------------------------------------------------------------------------------


def overflows(outputs: torch.Tensor) -> torch.Tensor:
    """Large values in half precision: their gradients overflow unless the scale is small."""
    return (outputs.half() * 1e4).float() * 1e3


def undefined(outputs: torch.Tensor) -> torch.Tensor:
    """The square root of zero: unchanged values, and gradients that are never finite."""
    return outputs + (outputs - outputs).abs().sqrt()


class Scaled:
    """A training with a gradient scaler that is not passed to the monitor."""

    fused, enabled, ends_epochs = False, True, True

    def __init__(self, changed: Any, since: int = 0, steps: int = 120) -> None:
        self.changed, self.since, self.steps = changed, since, steps

    def run(self) -> dict[str, Finding]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
        loss_fn = nn.MSELoss()
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=self.fused)
        scaler = torch.amp.GradScaler("cpu", enabled=self.enabled)
        x, y = torch.from_numpy(X), torch.from_numpy(Y)
        select = "loss_scale_collapse"
        with autotrainer.watch(model, optimizer, loss_fn=loss_fn, select=select, overhead=1.0) as monitor:
            for step in range(self.steps):
                rows = torch.randint(256, (32,))
                optimizer.zero_grad()
                outputs = model(x[rows])
                if step >= self.since:
                    outputs = self.changed(outputs)
                scaler.scale(loss_fn(outputs, y[rows])).backward()
                scaler.step(optimizer)
                scaler.update()
                if self.ends_epochs and step % 20 == 19:
                    monitor.end_epoch()
        assert not monitor._failed
        return {f.problem: f for f in monitor.findings if f.severity is not Severity.INFO}


class Fused(Scaled):
    fused = True


class Endless(Scaled):
    ends_epochs = False


@pytest.mark.parametrize("kind", [Scaled, Fused, Endless])
@pytest.mark.parametrize("since", [0, 40])
def test_nonfinite_gradients_collapse_the_loss_scale(kind: type[Scaled], since: int) -> None:
    found = kind(undefined, since).run()
    assert found["loss_scale_collapse"].severity is Severity.ERROR
    assert found["loss_scale_collapse"].evidence["loss_scale"] < 1e-4


def test_overflowing_gradients_collapse_the_loss_scale() -> None:
    assert Scaled(overflows).run()["loss_scale_collapse"].severity is Severity.ERROR


@pytest.mark.parametrize("kind", [Scaled, Fused, Endless])
def test_stable_loss_scale_has_no_finding(kind: type[Scaled]) -> None:
    assert kind(nn.Identity()).run() == {}


def test_disabled_scaler_has_no_finding() -> None:
    class Off(Scaled):
        enabled = False

    assert Off(nn.Identity()).run() == {}


def fit_in_half_precision(factor: float) -> dict[str, str]:
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8,)), keras.layers.Dense(16, "relu", dtype="mixed_float16")]
    model = keras.Sequential([*layers, keras.layers.Dense(1, dtype="mixed_float16"), keras.layers.Rescaling(factor)])
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-4))
    model.compile(optimizer, "mse")
    with autotrainer.watch(model, select="loss_scale_collapse", overhead=1.0) as monitor:
        model.fit(X, Y, epochs=3, batch_size=16, verbose=0)
    assert not monitor._failed
    return {f.problem: str(f.severity) for f in monitor.findings if f.severity is not Severity.INFO}


def test_loss_scale_in_keras() -> None:
    assert fit_in_half_precision(1e7) == {"loss_scale_collapse": "error"}
    assert fit_in_half_precision(1.0) == {}


# -- repeated_augmentation --------------------------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Rows with noise from the data set's generator, of which every worker gets a copy."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(X)

    def noise(self, index: int) -> Any:
        return self.generator.normal(size=8)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return (X[index] + self.noise(index)).astype(np.float32), Y[index]


class DrawsGlobally(Augmented):
    def noise(self, index: int) -> Any:
        return np.random.normal(size=8)


class DrawsInTorch(Augmented):
    def noise(self, index: int) -> Any:
        return torch.randn(8).numpy()


class DrawsLazily(Augmented):
    """Creates its generator in the worker."""

    def __init__(self) -> None:
        self.generator: Any = None

    def noise(self, index: int) -> Any:
        if self.generator is None:
            self.generator = np.random.default_rng(torch.initial_seed())
        return self.generator.normal(size=8)


class DrawsRarely(Augmented):
    """Changes one row in eight: too few to detect."""

    def noise(self, index: int) -> Any:
        return self.generator.normal() * (self.generator.random() < 1 / 8)


class DrawsByIndex(Augmented):
    def noise(self, index: int) -> Any:
        return np.random.default_rng(index).normal(size=8)


class Stream(IterableDataset[Any]):
    """Yields all rows in each worker."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        yield from zip(X, Y, strict=True)


class DividedStream(Stream):
    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        info = get_worker_info()
        rows = slice(None) if info is None else slice(info.id, None, info.num_workers)
        yield from zip(X[rows], Y[rows], strict=True)


def one_seed(worker: int) -> None:
    np.random.seed(0)


def own_seed(worker: int) -> None:
    np.random.seed(worker)


def check_loader(dataset: Any, **options: Any) -> dict[str, str]:
    """Check a loader, and return severities by problem."""
    shuffle = None if isinstance(dataset, IterableDataset) else True
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(dataset, 32, shuffle=shuffle, generator=generator, **{"num_workers": 2} | options)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
    states = torch.get_rng_state(), generator.get_state(), repr(np.random.get_state())
    found = autotrainer.check(model, loader, loss=nn.MSELoss(), select="repeated_augmentation")
    after = torch.get_rng_state(), generator.get_state(), repr(np.random.get_state())
    assert torch.equal(states[0], after[0])
    assert torch.equal(states[1], after[1])
    assert states[2] == after[2]
    return {f.problem: str(f.severity) for f in found}


@pytest.mark.parametrize(
    ("dataset", "options", "expected"),
    [
        (Augmented, {}, "warning"),
        (Augmented, {"num_workers": 1}, "info"),
        (Augmented, {"persistent_workers": True}, "warning"),
        (DrawsGlobally, {"worker_init_fn": one_seed}, "warning"),
        (DrawsGlobally, {"worker_init_fn": own_seed}, "info"),
        (Stream, {}, "warning"),
    ],
)
def test_workers_with_equal_random_numbers_or_rows(dataset: type[Any], options: dict[str, Any], expected: str) -> None:
    assert check_loader(dataset(), **options) == {"repeated_augmentation": expected}


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        (DrawsGlobally, {}),
        (DrawsInTorch, {}),
        (DrawsLazily, {}),
        (DrawsRarely, {}),
        (DrawsByIndex, {}),
        (Augmented, {"num_workers": 0}),
        (DividedStream, {}),
        (Stream, {"num_workers": 1}),
    ],
)
def test_independent_workers_have_no_finding(dataset: type[Any], options: dict[str, Any]) -> None:
    assert check_loader(dataset(), **options) == {}


# -- replica_desync ---------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parents[2]

DISTRIBUTED = """
import os, sys
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
import autotrainer

torch.set_num_threads(1)
folder, rank = sys.argv[1], int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
torch.manual_seed(0)
x = torch.randn(256, 8)
data = TensorDataset(x, x[:, :1] * 2)
for kind in ("good", "unwrapped", "bypassed", "ignored", "twins"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    if kind == "ignored":
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ["4.weight", "4.bias"])
    called = model if kind == "unwrapped" else DistributedDataParallel(model)
    sampler = DistributedSampler(data, 2, rank) if kind != "twins" else DistributedSampler(data, 1, 0)
    loader = DataLoader(data, 16, sampler=sampler)
    loss_fn, optimizer = nn.MSELoss(), torch.optim.Adam(model.parameters(), 1e-3)
    watched = called if rank else model
    log_dir = f"{folder}/{kind}-{rank}"
    with autotrainer.watch(watched, optimizer, loss_fn=loss_fn, log_dir=log_dir, select="AT901") as monitor:
        for epoch in range(2):
            sampler.set_epoch(epoch)
            for inputs, targets in loader:
                optimizer.zero_grad()
                outputs = called.module(inputs) if kind == "bypassed" else called(inputs)
                loss_fn(outputs, targets).backward()
                optimizer.step()
    assert not monitor._failed
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of trainings of two processes each, by name: <kind>-<rank>.

    One process watches the model and the other its wrapper, so that each writes a log; except for ``unwrapped``.
    """
    folder = tmp_path_factory.mktemp("replicas")
    # As the fixture `run_python` of conftest.py, for two processes at a time.
    code = f"import runpy; runpy.run_path({str(ROOT / 'conftest.py')!r})\n{DISTRIBUTED}"
    command, env = [sys.executable, "-c", code, str(folder)], {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([*command, str(rank)], env=env, stderr=subprocess.PIPE, text=True) for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    return folder


def compared(logs: Path, kind: str) -> dict[str, Finding]:
    """Replay the log of the first process beside that of the second."""
    first, second = (next((logs / f"{kind}-{rank}").glob("*.jsonl")) for rank in range(2))
    assert autotrainer.replay(first, select="replica_desync").findings == ()
    report = autotrainer.replay(first, replicas=[second], select="replica_desync")
    return {f.problem: f for f in report.findings}


def test_unsynchronized_replicas(logs: Path) -> None:
    found = compared(logs, "bypassed")["replica_desync"]
    assert found.severity is Severity.ERROR
    assert found.evidence["replica_gap"] > 1e-5


def test_replicas_that_are_watched_alike_are_compared_as_they_train(logs: Path) -> None:
    (log,) = logs.glob("unwrapped-*/*.jsonl")
    (found,) = autotrainer.replay(log, select="replica_desync").findings
    assert (log.parent.name, found.severity) == ("unwrapped-0", Severity.ERROR)
    assert found.evidence["replica_gap"] > 1e-5


def test_unsynchronized_layer(logs: Path) -> None:
    found = compared(logs, "ignored")["replica_desync"]
    assert (found.severity, found.layers) == (Severity.WARNING, ("4",))


def test_replicas_with_the_same_samples(logs: Path) -> None:
    found = compared(logs, "twins")["replica_desync"]
    assert (found.severity, found.evidence["replica_twins"]) == (Severity.WARNING, 1.0)


def test_synchronized_replicas_have_no_finding(logs: Path) -> None:
    assert compared(logs, "good") == {}


def test_replicas_on_the_command_line(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (str(next((logs / f"bypassed-{rank}").glob("*.jsonl"))) for rank in range(2))
    assert main(["replay", first, "--replica", second, "--select", "AT901"]) == 1
    assert "ERROR  AT901 replica_desync" in capsys.readouterr().out


def recorded(folder: Path, seed: int) -> Path:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with autotrainer.watch(model, log_dir=folder, select="replica_desync", overhead=1.0) as monitor:
        model.fit(X, Y, epochs=2, batch_size=32, verbose=0)
    assert monitor.log_path is not None
    return monitor.log_path


def test_replica_logs_of_keras(tmp_path: Path) -> None:
    first, same, other = (recorded(tmp_path, seed) for seed in (0, 0, 1))
    select = "replica_desync"
    apart = autotrainer.replay(first, replicas=[same, other], select=select).findings
    twins = autotrainer.replay(first, replicas=[same], select=select).findings
    assert [str(f.severity) for f in (*apart, *twins)] == ["error", "warning"]


def test_replica_logs_of_different_models_are_rejected(logs: Path, tmp_path: Path) -> None:
    with pytest.raises(LogError, match="another model"):
        autotrainer.replay(next((logs / "good-0").glob("*.jsonl")), replicas=[recorded(tmp_path, 0)])
