"""Plans made for one framework, applied to models of both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from autotrainer.edits import (
    NumberClasses,
    Reinitialize,
    ScaleInputs,
    ScaleTargets,
    SetLearningRate,
    SetOutputActivation,
    SwapActivation,
)
from autotrainer.errors import ConfigError
from autotrainer.reporting.plan import RepairPlan

SETTINGS = (SetLearningRate(0.5), ScaleInputs((1.0, 2.0), (2.0, 4.0)), SetOutputActivation("linear"))


class Named(nn.Module):
    """Layers of the names that the Keras model has."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.squash, self.out = nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1)

    def forward(self, x: Any) -> Any:
        return torch.sigmoid(self.out(self.squash(self.hidden(x))))


def torch_model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 1), nn.Sigmoid())


def keras_model(names: tuple[str, ...] = ("one", "two", "three", "out")) -> Any:
    *hidden, last = names
    dense = keras.layers.Dense
    layers = [*(dense(4, "sigmoid", name=name) for name in hidden), dense(1, "sigmoid", name=last)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile("sgd", "mse")
    return model


def plan(framework: str, layers: tuple[str, ...], *edits: Any) -> RepairPlan:
    return RepairPlan(("x",), edits, ("y",), framework, layers)


def test_settings_inputs_and_outputs_apply_alike_in_both_frameworks() -> None:
    x = np.array([[3.0, -2.0], [0.5, 6.0]], "float32")
    original = torch_model()
    model, optimizer = plan("keras3", ("one", "two"), *SETTINGS).apply(
        original, torch.optim.SGD(original.parameters(), 0.1)
    )
    scaled = torch.tensor((x - [1, 2]) / [2, 4], dtype=torch.float32)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert torch.allclose(model(torch.tensor(x)), original[:3](scaled), atol=1e-6)
    changed, optimizer = plan("pytorch", ("0", "1", "2", "3"), *SETTINGS).apply(keras_model())
    assert float(optimizer.learning_rate) == 0.5
    assert changed.layers[-1].activation is keras.activations.linear
    assert changed.predict(x, verbose=0).shape == (2, 1)


def test_output_transforms_apply_alike_in_both_frameworks() -> None:
    x = np.array([[3.0, -2.0], [0.5, 6.0]], "float32")
    scaled = ScaleTargets((10.0,), (3.0,))
    original = torch_model()
    model, _ = plan("keras3", (), scaled, SetOutputActivation("linear")).apply(original)
    assert torch.allclose(model(torch.tensor(x)), original[:3](torch.tensor(x)) * 3 + 10, atol=1e-5)
    fresh = keras_model()
    expected = fresh.predict(x, verbose=0) * 3 + 10
    changed, _ = plan("pytorch", (), scaled).apply(fresh)
    np.testing.assert_allclose(changed.predict(x, verbose=0), expected, rtol=1e-5)
    columns = NumberClasses((2,), fill=-5.0)
    one, other = (plan("pytorch", (), columns).apply(build())[0] for build in (torch_model, keras_model))
    for outputs in (one(torch.tensor(x)).detach().numpy(), other.predict(x, verbose=0)):
        assert outputs.shape == (2, 3)
        assert (outputs[:, :2] == -5.0).all()


@pytest.mark.parametrize("edit", [ScaleTargets(), NumberClasses(), ScaleInputs()])
@pytest.mark.parametrize("build", [torch_model, keras_model])
def test_plan_without_its_numbers_is_rejected(edit: Any, build: Any) -> None:
    with pytest.raises(ConfigError, match=r"has no fitted numbers"):
        plan("pytorch", (), edit).apply(build())


@pytest.mark.parametrize("edit", [SwapActivation(("0",), "relu"), Reinitialize(("0",), "he_uniform")])
def test_layers_of_another_framework_are_not_matched_by_position(edit: Any) -> None:
    made = plan("pytorch", ("0", "1", "2", "3"), edit)  # as many layers as the Keras model has
    with pytest.raises(
        ConfigError, match=r"made for a model of pytorch.* names layer '0'.*it has one, two, three, out"
    ):
        made.apply(keras_model())
    with pytest.raises(ConfigError, match=r"made for a model of keras3.* names layer 'one'"):
        plan("keras3", ("one", "two", "three", "out"), replace(edit, layers=("one",))).apply(torch_model())


def test_layers_of_the_same_name_are_matched_across_frameworks() -> None:
    before = Named()
    weights = before.hidden.weight.detach().clone()
    made = plan("keras3", ("hidden", "more", "out"), Reinitialize(("hidden",), "he_uniform"))
    model, _ = made.apply(before)
    assert not torch.equal(model.hidden.weight, weights)
