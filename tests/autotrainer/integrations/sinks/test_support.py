"""What all sinks have in common: copies, pickles, and a second training with the same object."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autotrainer
from autotrainer.errors import ConfigError
from autotrainer.integrations.alerts import Alerts
from autotrainer.integrations.sinks.jsonl import JsonLinesSink
from autotrainer.integrations.sinks.opentelemetry import OpenTelemetrySink
from autotrainer.integrations.sinks.tensorboard import TensorBoardSink


def train(sink: Any, steps: int) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss, x = nn.MSELoss(), torch.randn(16, 4)
    with autotrainer.watch(model, optimizer, loss_fn=loss, overhead=1.0, sinks=[sink]):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), x.sum(dim=1, keepdim=True)).backward()
            optimizer.step()


def test_a_sink_gets_several_trainings_one_after_the_other(tmp_path: Path) -> None:
    sink = JsonLinesSink(tmp_path / "run.jsonl")
    for _ in range(3):
        train(sink, 3)
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text("ascii").splitlines()]
    runs = "".join("|" if line["type"] == "run" else "s" * (line["type"] == "scalars") for line in lines)
    assert runs.count("|") == 3
    assert all(part for part in runs.split("|")[1:])


def test_what_a_sink_raises_before_another_training_is_one_clear_line(tmp_path: Path) -> None:
    class Gone(JsonLinesSink):
        def reopen(self) -> None:
            raise OSError("no space left")

    sink = Gone(tmp_path / "run.jsonl")
    with pytest.raises(ConfigError, match=r"Gone can't be used again: .*no space left"):
        train(sink, 1)
    sink.close()


@pytest.mark.integrations
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of apprise
@pytest.mark.parametrize("kind", [JsonLinesSink, TensorBoardSink, OpenTelemetrySink, Alerts], ids=lambda k: k.__name__)
def test_copies_write_to_the_same_place(kind: Any, tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (tmp_path / "place",)
    if kind is OpenTelemetrySink:
        sdk = pytest.importorskip("opentelemetry.sdk.metrics")
        sink = OpenTelemetrySink(sdk.MeterProvider())
        assert copy.deepcopy([sink])[0] is sink
        return
    if kind is Alerts:
        pytest.importorskip("apprise")
        arguments = ("json://localhost",)
    sink = kind(*arguments, cooldown=9.0) if kind is Alerts else kind(*arguments)
    assert copy.deepcopy([sink])[0] is sink
    other = pickle.loads(pickle.dumps(sink))
    assert type(other) is kind
    assert vars(other)["_arguments"] == vars(sink)["_arguments"]
    train(other, 2)
    sink.close()
