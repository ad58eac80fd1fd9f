"""The builders of both frameworks make the same programs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch  # before TensorFlow

import keras  # isort: skip
from numpy.typing import NDArray
from torch import nn

from autotrainer.errors import DataError
from benchmarks.cases.case import Case, Program, load_cases
from benchmarks.cases.vocabulary import ENCODINGS, LAYERS, LOSSES, OPTIMIZERS, walk
from benchmarks.data.datasets import Arrays, load
from benchmarks.generator.generate import DATA
from benchmarks.programs import keras3 as build_keras
from benchmarks.programs import pytorch as build_pytorch
from benchmarks.programs.pytorch_modules import Gru, Lstm, Residual, SelfAttention, Twins

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning"),
    pytest.mark.filterwarnings("ignore:In loss categorical_crossentropy:SyntaxWarning"),
]

GENERATED = [
    *(f"{data}.{kind}.zero_init.0" for data, kind in (("digits", "mlp"), ("digit_images", "cnn"), ("waves", "cnn1d"))),
    "cancer_codes.autoencoder.log_of_zero.0",
    "arm.mlp.summed_loss.0",
    "moons.mlp.labels_from_one.0",
    "moons.mlp.summed_loss.0",
    "moons.mlp.one_unit_cce.0",
    "digits.norm.doubled_softmax.0",
    "shapes.cnn_norm.summed_loss.0",
    "shapes.cnn.missing_values.0",
    "waves.gru.summed_loss.0",
    "reviews.gru.signed_labels.0",
    "reviews.transformer.loud_attention.0",
    "reviews.transformer.decay_too_strong.0",
]
"""One generated case for each kind of network, and for everything else that the other cases do not cover."""

FAMILIES = [
    *(f"gates.{kind}.healthy.0" for kind in ("logits", "square")),
    "codes.mae.healthy.0",
    "codes.wide.healthy.2",
    "encodings.bits.healthy.0",
    "encodings.onehot.healthy.0",
    "tags.flat.healthy.0",
    "tags.regimes.healthy.0",
    "tags.transformer.healthy.0",
    "grammar.transformer.healthy.0",
    "values.three.healthy.1",
    "counts.mlp.healthy.0",
    "denoising.linear.healthy.0",
    "segments.two.healthy.0",
    "pairs.contrastive.healthy.0",
    "rankings.margin.healthy.0",
    "rankings.logistic.healthy.0",
    "residual.plain.frozen_layers.0",
    "residual.plain.float_classes.0",
    "labels.mlp.healthy.0",
]
"""Cases of the families that cover what generated cases do not."""

COMPOSITE = {"critic", "decoder", "discriminator", "encoder", "generator", "head", "policy", "trunk", "transformer"}
"""Parts of programs that only PyTorch builds, and transformers, which test_transformers.py compares."""

PROGRAMS = {
    f"{case.id}-{variant}": program
    for case in [
        *load_cases(["real", "real2", "zoo"]),
        *load_cases(["world", "world_hidden"], ["so-marks50", "gh-talent92"]),
        *load_cases(["generated"], GENERATED),
        *load_cases(["families"], FAMILIES),
    ]
    for variant, program in (("given", case.original), ("fixed", case.fixed))
    if program is not None and not (case.source == "zoo" and variant == "fixed" and case.id != "demo_vanish")
}


def data_of(program: Program) -> Arrays:
    try:
        return load(program, 0)
    except DataError as error:
        pytest.skip(str(error))


def keras_weights(model: Iterable[nn.Module]) -> list[NDArray[Any]]:
    """Return a PyTorch model's weights in the order and layout of Keras."""
    weights: list[NDArray[Any]] = []
    channels = 0
    for module in model:
        state = {name: value.numpy() for name, value in module.state_dict().items()}
        if isinstance(module, Residual | Twins):
            weights += keras_weights(module)
        elif isinstance(module, nn.Conv1d | nn.Conv2d):
            channels = module.out_channels
            weights += [np.moveaxis(state["weight"], (1, 0), (-2, -1)), state["bias"]]
        elif isinstance(module, nn.Linear):
            weight = state["weight"]
            if channels:  # Keras flattens channels last
                units, cells = len(weight), weight.shape[1] // channels
                weight = np.swapaxes(weight.reshape(units, channels, cells), 1, 2).reshape(units, -1)
                channels = 0
            weights += [weight.T, state["bias"]]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            weights += [state[name] for name in ("weight", "bias", "running_mean", "running_var")]
        elif isinstance(module, Lstm):
            for end in ("l0", "l0_reverse") if module.lstm.bidirectional else ("l0",):
                bias = state[f"lstm.bias_ih_{end}"] + state[f"lstm.bias_hh_{end}"]
                weights += [state[f"lstm.weight_ih_{end}"].T, state[f"lstm.weight_hh_{end}"].T, bias]
        elif isinstance(module, Gru):
            gates = {name: value.reshape(3, -1, *value.shape[1:])[[1, 0, 2]] for name, value in state.items()}
            for end in ("l0", "l0_reverse") if module.gru.bidirectional else ("l0",):
                parts = {n: gates[f"gru.{n}_{end}"] for n in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
                weights += [parts[n].reshape(-1, parts[n].shape[-1]).T for n in ("weight_ih", "weight_hh")]
                weights.append(np.stack([parts["bias_ih"].ravel(), parts["bias_hh"].ravel()]))
        elif isinstance(module, SelfAttention):
            heads, units = module.attention.num_heads, module.attention.embed_dim
            kernels, biases = state["attention.in_proj_weight"], state["attention.in_proj_bias"]
            for kernel, bias in zip(kernels.reshape(3, units, units), biases.reshape(3, units), strict=True):
                weights += [kernel.T.reshape(units, heads, -1), bias.reshape(heads, -1)]
            weights += [
                state["attention.out_proj.weight"].T.reshape(heads, -1, units),
                state["attention.out_proj.bias"],
            ]
        else:
            weights += state.values()
    return weights


@pytest.mark.parametrize("name", PROGRAMS)
def test_parameters_outputs_and_loss_are_equal_in_both_frameworks(name: str) -> None:
    program = PROGRAMS[name]
    data = data_of(program)
    torch.manual_seed(0)
    ours = build_pytorch.build(program, data.x_train.shape[1:])
    theirs = build_keras.build(program, data.x_train.shape[1:])
    theirs.set_weights(keras_weights(ours))  # fails where number or shapes differ
    x, y = data.x_train[:8], data.y_train[:8]
    outputs = build_pytorch.predict(ours, build_pytorch.to_inputs(program, x))
    outputs = build_pytorch.channels_last(program, outputs)
    np.testing.assert_allclose(outputs, np.asarray(theirs(x, training=False)), rtol=2e-4, atol=2e-5)

    if outputs.shape[1:] != y.shape[1:] and program.layout in ("float", "float_flat"):
        return  # a shape fault: each framework broadcasts in its own way
    if program.loss in ("bce", "bce_sum"):
        outputs = outputs.clip(0.01, 0.99)  # torch.nn.BCELoss and Keras keep off log(0) at different distances
    with np.errstate(all="ignore"):
        expected = float(np.mean(keras.losses.get(build_keras.make_loss(program))(y, outputs)))
    if program.loss == "mse_sum":
        expected *= outputs.shape[-1]  # PyTorch sums over the outputs too, Keras means over them
    if program.layers[-1]["type"] == "conv2d":
        outputs = np.moveaxis(outputs, -1, 1)
    pair = build_pytorch.for_loss(program, torch.from_numpy(outputs), build_pytorch.to_targets(y, program))
    loss = build_pytorch.loss_module(program)(*pair)
    np.testing.assert_allclose(float(loss), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", load_cases(["generated"], GENERATED), ids=lambda case: case.id)
def test_optimizers_have_equal_settings_in_both_frameworks(case: Case) -> None:
    program = case.original
    ours = build_pytorch.make_optimizer(program, [nn.Parameter(torch.zeros(1))]).param_groups[0]
    theirs = build_keras.make_optimizer(program)
    assert float(ours["lr"]) == pytest.approx(float(theirs.learning_rate))
    assert ours.get("momentum", 0) == getattr(theirs, "momentum", 0)
    if program.optimizer["name"] == "rmsprop":
        assert ours["alpha"] == theirs.rho
    if program.optimizer["name"] == "adamw":
        assert ours["weight_decay"] == theirs.weight_decay == program.optimizer["weight_decay"]


def test_programs_cover_the_whole_vocabulary() -> None:
    layers = [layer for program in PROGRAMS.values() for layer in walk(program.layers)]
    assert {layer["type"] for layer in layers} | COMPOSITE == set(LAYERS)
    assert {program.loss for program in PROGRAMS.values()} | {"composite"} == set(LOSSES)
    optimizers = {program.optimizer["name"] for program in PROGRAMS.values()}
    assert optimizers | {"adadelta", "adamax", "nadam"} == set(OPTIMIZERS)
    assert {program.layout for program in PROGRAMS.values()} == set(ENCODINGS)
    kinds = {name.split(".")[1] for name in GENERATED} | {"lstm"}
    assert kinds == {kind for spec in DATA.values() for kind in spec["kinds"]}


@pytest.mark.parametrize(
    "init", ["he_uniform", "he_normal", "lecun_normal", "glorot_normal", "uniform005", "normal005"]
)
def test_initializers_have_the_same_spread_as_keras(init: str) -> None:
    layers = ({"type": "dense", "units": 300, "init": init},)
    program = Program(layers, "mse", {"name": "sgd", "lr": 0.1}, 8, 1, {"label_encoding": "float"}, "framework", "r2")
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    ours = build_pytorch.build(program, (200,)).state_dict()["0.weight"].numpy()
    theirs = np.asarray(build_keras.build(program, (200,)).layers[0].kernel)
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.03)
    assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=0.15)
