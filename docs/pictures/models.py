"""Faulty and healthy runs: units, layers, outputs and losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

from pictures.curves import by_layer, epochs, layer, scalar, smoothed
from pictures.optimization import RELUS, SIGMOIDS
from pictures.parts import Data, adam, mlp, numbers, ring, rows, scaled, sgd
from pictures.run import Loop, Picture, Run

__all__ = ["MODELS", "NUMBERS", "ONE_UNIT", "careless_loss", "signs", "without_axis"]

ONE_UNIT = Run(model=lambda: nn.Sequential(*mlp(), nn.Softmax(1)), loss=nn.BCELoss)
NUMBERS = Run(data=numbers, loss=nn.MSELoss, optimizer=lambda m: sgd(m, 0.02))


def careless_loss() -> nn.Module:
    """Return a cross-entropy that takes the logarithm of 0."""

    class Careless(nn.Module):
        def forward(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            p = torch.sigmoid(20 * z)
            return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    return Careless()


def signs() -> Data:
    """Return rows with labels of -1 and 1."""
    x, y = rows()
    return x, 2 * y - 1


def without_axis() -> Data:
    """Return rows with targets that lack the axis of the outputs."""
    x, y = numbers()
    return x, y[:, 0]


class _Mixed(nn.Module):
    """Weighs features by a softmax, over the rows of the batch or over the features."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.score, self.out = axis, nn.Linear(8, 8), mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self.score(x), self.axis)
        outputs: torch.Tensor = self.out(x * weights * weights.shape[self.axis])
        return outputs


class _AlwaysDrops(nn.Module):
    """Drops units in evaluation mode, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)


class _CutOff(nn.Module):
    """Passes on all columns but the first ones."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.inner = first, mlp(width=8 - first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(x[:, self.first :])
        return outputs


class _Undefined(nn.Module):
    """Takes the square root of zero: unchanged values, and gradients that are never finite."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + (x - x).abs().sqrt()


def _gelu(bias: float) -> Run:
    def model() -> nn.Module:
        network = mlp(16, nn.GELU, 2)
        nn.init.constant_(network[2].bias, bias)  # type: ignore[arg-type]
        return network

    return Run(model, optimizer=adam)


def _second_term(factor: float) -> Run:
    def term(outputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (outputs.sum(1) - factor * x[:, 3]).square().mean()

    def data() -> Data:
        x, y = rows()
        return x, y[:, 0].long()

    return Run(
        lambda: mlp(outputs=2), data, lambda m: adam(m, 0.003), nn.CrossEntropyLoss, epochs=6, loop=Loop(term=term),
    )  # fmt: skip


_SINGLY = Run(optimizer=adam, epochs=6, validation=lambda: rows(64), loop=Loop(singly=True), by="check")
_NOISY = Run(validation=rows, optimizer=adam, by="check")
_HALF = NUMBERS.but(optimizer=lambda m: adam(m, 1e-3), loop=Loop(scaled=True))

MODELS: Mapping[str, Picture] = {
    "no_gradient": Picture(
        "A softmax over one unit lets no gradient through; a sigmoid does.", ONE_UNIT,
        curve=scalar("grad_norm"), axes=("step", "gradient norm"),
    ),
    "dying_relu": Picture(
        "Biases of -6 let hardly a unit of the hidden layer be active; ordinary ones do.",
        Run(model=lambda: scaled(mlp(), 1.0, -6.0)), curve=layer("dead_units", 1), axes=("step", "share of dead units"),
    ),
    "saturated_activation": Picture(
        "Three layers of tanh with weights 50 times the usual, and usual ones.",
        Run(model=lambda: scaled(mlp(32, nn.Tanh, 3), 50.0)), Run(model=lambda: mlp(32, nn.Tanh, 3)),
        layer("saturated", 1), ("step", "share of saturated outputs"),
    ),
    "dormant_neurons": Picture(
        "GELU with biases of -30 in the second layer, and with biases of 0.", _gelu(-30.0), _gelu(0.0),
        layer("dormant", 3), ("step", "share of dormant units"),
    ),
    "representation_collapse": Picture(
        "Eight layers of sigmoids give the same features for all inputs; those of ReLU do not.", SIGMOIDS, RELUS,
        by_layer("activation_spread", 100), ("layer", "spread over inputs"), log=True,
    ),
    "rows_mixed": Picture(
        "A softmax over the rows of the batch, and over the features of each row.",
        *(_SINGLY.but(model=lambda axis=axis: _Mixed(axis)) for axis in (0, 1)),
        epochs("val_loss"), ("epoch", "validation loss, row by row"),
    ),
    "unstable_evaluation": Picture(
        "Dropout that stays in force in evaluation mode, and dropout that does not.",
        _NOISY.but(model=lambda: mlp(activation=lambda: nn.Sequential(nn.ReLU(), _AlwaysDrops()))),
        _NOISY.but(model=lambda: mlp(dropout=0.5)), epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "not_learning": Picture("A softmax over one unit, and a sigmoid.", ONE_UNIT),
    "improper_output_activation": Picture("A softmax over one unit, and a sigmoid.", ONE_UNIT),
    "improper_loss": Picture("A cross-entropy of labels -1 and 1, and of labels 0 and 1.", Run(data=signs)),
    "loss_term_imbalance": Picture(
        "A second term of the loss whose targets are a thousand times as large, and of like size.",
        _second_term(1000.0), _second_term(1.0), smoothed("accuracy", 10), ("step", "accuracy"),
    ),
    "loss_scale_collapse": Picture(
        "The square root of zero, whose gradient is not finite, and none.",
        _HALF.but(model=lambda: nn.Sequential(*mlp(), _Undefined())), _HALF,
        axes=("step", "scale of the loss"), log=True,
    ),
    "ignored_input": Picture(
        "A model that cuts off the first of the columns that matter, and one that takes all.",
        *(Run(model=lambda n=n: _CutOff(n), optimizer=adam, by="check") for n in (1, 0)),
    ),
    "nonfinite": Picture(
        "A cross-entropy by hand, with the logarithm of 0, and that of the framework.",
        Run(loss=careless_loss, optimizer=adam), Run(optimizer=adam),
    ),
    "insufficient_capacity": Picture(
        "One hidden unit for whether a point lies in a ring, and 32.",
        *(Run(model=lambda n=n: mlp(n, width=2), optimizer=adam, epochs=60, data=ring) for n in (1, 32)),
    ),
    "target_mismatch": Picture(
        "Targets without the axis that the outputs have, which broadcasts, and with it.",
        NUMBERS.but(data=without_axis), NUMBERS,
    ),
}  # fmt: skip
