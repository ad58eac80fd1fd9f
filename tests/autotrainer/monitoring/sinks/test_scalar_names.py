"""Names of scalars: short, unique and accepted by every tracker; of many layers, some."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from autotrainer.monitoring.sinks.scalar_names import MAX_LAYERS, ScalarNames
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats

HOSTILE = (
    "a/b",
    "a.b",
    "a\\b",
    "a\nb",
    "A.B",
    "../../etc/passwd",
    "",
    ".",
    "..",
    "loss",
    "loss_terms",
    "epoch",
    "重み",
    "\ud800",
    "\x1b[31mred",
    "x" * 100_000,
    "x" * 99_999,
    "a b:c%$*{}",
)


def stats(layers: int, *, fill: float = 1.0, **scalars: float) -> StepStats:
    row = np.array([scalars.get(name, math.nan) for name in STEP_COLUMNS])
    return StepStats(3, 0, row, np.full((layers, len(LAYER_COLUMNS)), fill))


def layers_of(values: dict[str, float]) -> list[str]:
    return [name.split("/")[1] for name in values if name.endswith("/grad_norm") and name.count("/") == 2]


def test_values_are_python_floats_by_layer_and_statistic() -> None:
    values = ScalarNames([LayerInfo("fc1")]).of_step(stats(1, loss=0.5, learning_rate=0.1))
    assert values["autotrainer/loss"] == 0.5
    assert values["autotrainer/learning_rate"] == 0.1
    assert values["autotrainer/fc1/grad_norm"] == values["autotrainer/fc1/update_ratio"] == 1.0
    assert {type(value) for value in values.values()} == {float}


def test_infinity_is_passed_on_and_what_was_not_measured_is_left_out() -> None:
    assert ScalarNames([LayerInfo("a")]).of_step(stats(1, fill=math.nan, loss=math.inf)) == {
        "autotrainer/loss": math.inf
    }


def test_hostile_names_make_unique_paths_that_trackers_accept() -> None:
    names = ScalarNames([LayerInfo(name) for name in HOSTILE]).of_step(stats(len(HOSTILE), loss=1.0))
    components = layers_of(names)
    assert len({name.lower() for name in components}) == len(HOSTILE)
    for name in names:
        assert re.fullmatch(r"autotrainer(/[\w.-]+){1,2}", name), name
        assert len(name.encode()) <= 250 + 5
        assert not any(part.startswith(".") for part in name.split("/"))
        assert not any(other.startswith(f"{name}/") for other in names), f"{name} is a file and a folder"


def test_of_many_layers_some_are_passed_on_and_those_of_findings() -> None:
    layers = [LayerInfo(f"block.{i}", parameters=i % 2) for i in range(10_000)]
    names = ScalarNames(layers)
    components = layers_of(names.of_step(stats(len(layers))))
    assert len(components) == MAX_LAYERS
    assert {"block.1", "block.9999"} <= set(components)
    names.include(["block.2", "block.2", "no such layer"])
    assert layers_of(names.of_step(stats(len(layers)))) == [*components, "block.2"]
    names.include([layer.name for layer in layers])
    assert len(layers_of(names.of_step(stats(len(layers))))) == 2 * MAX_LAYERS


def test_few_layers_are_all_passed_on() -> None:
    layers = [LayerInfo(f"relu{i}") for i in range(MAX_LAYERS)]
    assert len(layers_of(ScalarNames(layers).of_step(stats(MAX_LAYERS)))) == MAX_LAYERS


@pytest.mark.parametrize("value", [0.5, math.inf])
def test_values_of_an_epoch_are_a_group(value: float) -> None:
    assert ScalarNames.of_epoch({"val_loss": value, "x/y": math.nan}) == {"autotrainer/epoch/val_loss": value}
