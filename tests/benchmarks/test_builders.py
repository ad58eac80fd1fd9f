"""The builders of both frameworks make the same programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch  # before TensorFlow

import keras  # isort: skip
from numpy.typing import NDArray
from torch import nn

from autotrainer.errors import DataError
from benchmarks import build_keras, build_pytorch
from benchmarks.cases import Program, load_cases
from benchmarks.datasets import Arrays, load
from benchmarks.modules_pytorch import Lstm

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
]

PROGRAMS = {
    f"{case.id}-{variant}": program
    for case in load_cases()
    for variant, program in (("given", case.given), ("fixed", case.fixed))
    if program is not None and not (case.source == "zoo" and variant == "fixed" and case.id != "demo_vanish")
}


def data_of(program: Program) -> Arrays:
    try:
        return load(program, 0)
    except DataError as error:
        pytest.skip(str(error))


def keras_weights(model: nn.Sequential) -> list[NDArray[Any]]:
    """Return a PyTorch model's weights in the order and form of Keras."""
    found: list[NDArray[Any]] = []
    channels = 0
    for module in model:
        state = {name: value.numpy() for name, value in module.state_dict().items()}
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            channels = module.out_channels
            found += [np.moveaxis(state["weight"], (1, 0), (-2, -1)), state["bias"]]
        elif isinstance(module, nn.Linear):
            weight = state["weight"]
            if channels:  # what was flattened goes channels last in Keras
                units, cells = len(weight), weight.shape[1] // channels
                weight = np.swapaxes(weight.reshape(units, channels, cells), 1, 2).reshape(units, -1)
                channels = 0
            found += [weight.T, state["bias"]]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            found += [state[name] for name in ("weight", "bias", "running_mean", "running_var")]
        elif isinstance(module, Lstm):
            for end in ("l0", "l0_reverse") if module.lstm.bidirectional else ("l0",):
                bias = state[f"lstm.bias_ih_{end}"] + state[f"lstm.bias_hh_{end}"]
                found += [state[f"lstm.weight_ih_{end}"].T, state[f"lstm.weight_hh_{end}"].T, bias]
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_same_parameters_outputs_and_loss(name: str) -> None:
    program = PROGRAMS[name]
    data = data_of(program)
    torch.manual_seed(0)
    ours = build_pytorch.build(program, data.x_train.shape[1:])
    theirs = build_keras.build(program, data.x_train.shape[1:])
    theirs.set_weights(keras_weights(ours))  # fails where number or shapes differ
    x, y = data.x_train[:8], data.y_train[:8]
    outputs = build_pytorch.predict(ours, build_pytorch.to_inputs(program, x))
    np.testing.assert_allclose(outputs, np.asarray(theirs(x, training=False)), rtol=2e-4, atol=2e-5)

    if outputs.shape[1:] != y.shape[1:] and program.layout == "float_flat":
        return  # a shape fault: each framework broadcasts in its own way
    if program.loss == "bce":
        outputs = outputs.clip(0.01, 0.99)  # torch.nn.BCELoss and Keras keep off log(0) at different distances
    with np.errstate(all="ignore"):
        expected = float(np.mean(keras.losses.get(build_keras.make_loss(program))(y, outputs)))
    loss = build_pytorch.loss_module(program)(torch.from_numpy(outputs), build_pytorch.to_targets(y))
    np.testing.assert_allclose(float(loss), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "init", ["he_uniform", "he_normal", "lecun_normal", "glorot_normal", "uniform005", "normal005"]
)
def test_initializers_have_the_spread_of_keras(init: str) -> None:
    layers = ({"type": "dense", "units": 300, "init": init},)
    program = Program(layers, "mse", {"name": "sgd", "lr": 0.1}, 8, 1, {"label_encoding": "float"}, "framework", "r2")
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    ours = build_pytorch.build(program, (200,)).state_dict()["0.weight"].numpy()
    theirs = np.asarray(build_keras.build(program, (200,)).layers[0].kernel)
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.03)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15)
