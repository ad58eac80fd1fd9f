"""`watch(sinks=…)`: names, objects and entry points; what is wrong is said before the training."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import autotrainer
from autotrainer import plugins, registry
from autotrainer.errors import AutotrainerError, ConfigError, PluginError
from autotrainer.integrations.sinks.jsonl import JsonLinesSink
from autotrainer.monitoring.monitor import is_watched


class Recorder:
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def scalars(self, step: int, mapping: Any) -> None:
        self.calls.append(step)

    def finding(self, finding: Any) -> None:
        self.calls.append(finding.problem)

    def close(self) -> None:
        self.calls.append("close")


class Training:
    def __init__(self) -> None:
        self.model = nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.loss = nn.MSELoss()

    def watch(self, sinks: Any, **options: Any) -> autotrainer.Monitor:
        return autotrainer.watch(self.model, self.optimizer, loss_fn=self.loss, sinks=sinks, **options)

    def run(self, sinks: Any, **options: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        x, y = torch.randn(64, 4), torch.randn(64, 1)
        with torch.no_grad():
            self.model.weight.fill_(0.1)
            self.model.bias.fill_(0.0)
        with self.watch(sinks, **options):
            for _ in range(4):
                self.optimizer.zero_grad()
                self.loss(self.model(x), y).backward()
                self.optimizer.step()
        return [parameter.detach().clone() for parameter in self.model.parameters()]


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs objects as entry points; a function in ``load`` is called when the entry point is loaded."""
    entries: list[Any] = []
    monkeypatch.setattr(plugins.loading, "entry_points", lambda group: entries if group == "autotrainer.sinks" else [])

    def add(name: str, load: Callable[[], Any], distribution: str = "acme-tools") -> None:
        entry = EntryPoint(name, f"acme{len(entries)}:Sink", "autotrainer.sinks")
        proxy = SimpleNamespace(name=name, value=entry.value, load=load, dist=SimpleNamespace(name=distribution))
        entries.append(proxy)

    return add


def test_sinks_change_no_bit_of_the_training(tmp_path: Path) -> None:
    torch.manual_seed(1)
    plain = Training().run(())
    with_sinks = Training().run([Recorder(), JsonLinesSink(tmp_path / "run.jsonl")])
    assert all(torch.equal(a, b) for a, b in zip(plain, with_sinks, strict=True))


@pytest.mark.parametrize("sinks", ["jsonl", ["jsonl"], ("jsonl",)])
def test_name_makes_a_sink(sinks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Training().run(sinks)
    lines = [json.loads(line) for line in (tmp_path / "autotrainer.jsonl").read_text().splitlines()]
    assert {"autotrainer/loss", "autotrainer/learning_rate"} < lines[1]["values"].keys()


def test_object_alone_is_a_sink() -> None:
    sink = Recorder()
    Training().run(sink)
    assert sink.calls[0] == 0
    assert sink.calls[-1] == "close"


def test_names_count_in_the_first_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "1")
    sink = Recorder()
    Training().run(["jsonl", sink])
    assert sink.calls
    assert not (tmp_path / "autotrainer.jsonl").exists()


def test_switched_off_makes_no_sink(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    Training().run("jsonl")
    assert not (tmp_path / "autotrainer.jsonl").exists()


INVALID: dict[str, tuple[Any, str]] = {
    "an unknown name": ("tensorbord", "unknown sink 'tensorbord': did you mean 'tensorboard'?"),
    "a hostile name": ("a\n\x1b[31m", "unknown sink"),
    "a number": (3, "3 is not a sink, it lacks scalars, finding, close"),
    "None": (None, "is not a sink"),
    "a class": (Recorder, "pass an object of Recorder, not the class"),
    "a name twice": (["jsonl", "jsonl"], "sinks lists 'jsonl' twice"),
    "an object without close": (SimpleNamespace(scalars=print, finding=print), "lacks close"),
    "something that is not callable": (SimpleNamespace(scalars=1, finding=print, close=print), "lacks scalars"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_sink_is_one_clear_line_before_the_training(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sinks, text = INVALID[case]
    training = Training()
    with pytest.raises(ConfigError) as caught:
        training.watch(sinks)
    assert text in str(caught.value)
    assert str(caught.value).isprintable()
    assert not is_watched(training.model)


def test_object_twice_is_refused() -> None:
    sink = Recorder()
    with pytest.raises(ConfigError, match="twice"):
        Training().watch([sink, sink])


def test_sink_whose_library_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    training = Training()
    names = sorted(set(registry._SINKS) - {"jsonl"})
    for name in names:
        monkeypatch.setitem(__import__("sys").modules, name, None)  # as if it were not installed
    for name in names:
        with pytest.raises(ConfigError) as caught:
            training.watch(["jsonl", name])
        assert f"pip install 'autotrainer-monitor[{name}]'" in str(caught.value)
    assert not is_watched(training.model)
    ends = [json.loads(line)["type"] for line in (tmp_path / "autotrainer.jsonl").read_text().splitlines()]
    assert ends == ["run", "end"] * len(names)  # those made before are closed


def test_entry_point_is_loaded_by_name_alone(points: Callable[..., None]) -> None:
    sink = Recorder()
    points("acme", lambda: lambda: sink)
    points("other", lambda: pytest.fail("loaded without being asked for"))
    Training().run("acme")
    assert sink.calls[-1] == "close"


BROKEN: dict[str, Callable[[], Any]] = {
    "can't be imported": lambda: __import__("no_such_module_of_acme"),
    "ends the process": lambda: (_ for _ in ()).throw(SystemExit(0)),
    "fails when made": lambda: lambda: 1 / 0,
    "ends the process when made": lambda: lambda: (_ for _ in ()).throw(SystemExit(0)),
    "is no sink": lambda: lambda: object(),
    "takes arguments": lambda: lambda url: Recorder(),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_entry_point_is_one_line_with_its_distribution(case: str, points: Callable[..., None]) -> None:
    points("acme", BROKEN[case])
    with pytest.raises(PluginError, match=r"^acme-tools: sink 'acme' can't be"):
        Training().watch("acme")


def test_two_distributions_with_one_name_are_refused(points: Callable[..., None]) -> None:
    points("acme", lambda: Recorder, "acme-tools")
    points("acme", lambda: Recorder, "other-tools")
    with pytest.raises(PluginError, match="acme-tools, other-tools"):
        Training().watch("acme")


def test_name_of_a_built_in_sink_can_not_be_taken(
    points: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    points("jsonl", lambda: pytest.fail("loaded"))
    Training().run("jsonl")
    assert (tmp_path / "autotrainer.jsonl").exists()


def test_damaged_metadata_of_a_distribution_are_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(group: str) -> Any:
        raise KeyError("Name")

    monkeypatch.setattr(plugins.loading, "entry_points", broken)
    monkeypatch.chdir(tmp_path)
    registry.make_sinks(registry.check_sinks("jsonl"))["jsonl"].close()
    with pytest.raises(AutotrainerError):
        registry.check_sinks("acme")


@pytest.mark.slow
def test_keras_passes_on_samples_and_epochs() -> None:
    import keras
    import numpy as np

    names: set[str] = set()

    class Names(Recorder):
        def scalars(self, step: int, mapping: Any) -> None:
            names.update(mapping)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="out")])
    model.compile("sgd", "mse")
    x = np.ones((32, 4), np.float32)
    with autotrainer.watch(model, sinks=Names()):
        model.fit(x, x[:, :1], epochs=2, verbose=0, validation_split=0.25)
    assert {"autotrainer/loss", "autotrainer/out/grad_norm", "autotrainer/epoch/val_loss"} <= names
