"""Findings of a Keras training point to the user's file: here to this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer
from autotrainer.backends.keras3.watching.source_lines import source_line

HERE = Path(__file__)


def sequence() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(7, "tanh"),  # hidden of the sequence
            keras.layers.Dense(3, "relu"),  # output of the sequence
        ]
    )


def graph() -> keras.Model:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5, name="inner")(inputs)  # inner of the graph
    return keras.Model(inputs, keras.layers.Dense(2, name="outer")(hidden))  # outer of the graph


class Subclass(keras.Model):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = keras.layers.Dense(5)  # first of the subclass

    def call(self, inputs: Any) -> Any:
        return self.first(inputs)


def line(mark: str) -> int:
    return next(i for i, text in enumerate(HERE.read_text().splitlines(), 1) if text.endswith(f"# {mark}"))


@pytest.mark.parametrize(
    ("build", "layer", "mark"),
    [
        (sequence, 0, "hidden of the sequence"),
        (sequence, 1, "output of the sequence"),
        (graph, 1, "inner of the graph"),
        (graph, 2, "outer of the graph"),
        (Subclass, 0, "first of the subclass"),
    ],
)
def test_layer_has_the_line_where_it_is_made(build: Any, layer: int, mark: str) -> None:
    model = build()

    found = source_line(model, "layer", model.layers[layer].name, str(HERE))

    assert found.endswith(f"{HERE.name}:{line(mark)}")


def test_unknown_lines_are_empty() -> None:
    assert source_line(keras.Sequential([keras.layers.Dense(1) for _ in range(2)]), "layer", "dense", str(HERE)) == ""
    assert source_line(sequence(), "layer", "no_such_layer", str(HERE)) == ""
    assert source_line(sequence(), "step", None, str(HERE)) == ""


def test_finding_has_a_source_line() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(128, 4)).astype("float32")
    y = np.eye(3, dtype="float32")[x[:, :3].argmax(1)]
    model = sequence()
    model.compile("adam", loss="categorical_crossentropy")  # the loss

    with autotrainer.watch(model, select="improper_output_activation") as monitor:
        model.fit(x, y, epochs=2, verbose=0)

    (finding,) = monitor.findings
    assert finding.place.endswith(f"{HERE.name}:{line('output of the sequence')}")
    assert source_line(model, "loss", None, str(HERE)).endswith(f"{HERE.name}:{line('the loss')}")
    assert finding.place in str(monitor.report())
