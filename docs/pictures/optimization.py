"""Faulty and healthy runs: gradients, steps and the course of the loss."""

from __future__ import annotations

from collections.abc import Mapping

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

from pictures.curves import by_layer, epochs, layer, measured, scalar
from pictures.parts import Data, adam, decay, mlp, numbers, ring, scaled, sgd, three_classes, uncertain
from pictures.run import Loop, Picture, Run

__all__ = ["LOW", "OPTIMIZATION", "RELUS", "SIGMOIDS", "unsteady"]

LOW, _HIGH = Run(optimizer=lambda m: sgd(m, 1e-4)), Run(optimizer=lambda m: sgd(m, 50.0))
SIGMOIDS = Run(model=lambda: mlp(8, nn.Sigmoid, 8), epochs=20)
RELUS = Run(model=lambda: mlp(8, nn.ReLU, 8), epochs=20, optimizer=adam)
_ADAM = Run(model=lambda: mlp(16, nn.Tanh, outputs=3), data=three_classes, loss=nn.CrossEntropyLoss, optimizer=adam)


def unsteady(rate: float) -> Run:
    """Return a training with momentum, and validation rows."""
    model = lambda: mlp(width=2)  # noqa: E731
    optimizer = lambda m: sgd(m, rate, momentum=0.9)  # noqa: E731
    return Run(model, ring, optimizer, epochs=30, validation=ring)


def _noisy(count: int = 9600) -> Data:
    """Return rows with a number as the target, most of which is noise."""
    return numbers(count, noise=1.2)


def _noisy_loop(*, bad: bool) -> Run:
    """Return one epoch over noisy rows; those of steps 240 to 254 may be far too large."""

    def batch(step: int, x: torch.Tensor, y: torch.Tensor) -> Data:
        return (x * 5, y * 8) if bad and 240 <= step < 255 else (x, y)

    loop = Loop(shuffled=False, batch=batch)
    return Run(lambda: mlp(), _noisy, lambda m: sgd(m, 1e-3), nn.MSELoss, epochs=1, loop=loop)


def _diverging(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if step == 80:
        decay(200.0)(step, model, optimizer)


def _steps(factor: float) -> Run:
    return Run(loop=Loop(each_step=decay(factor)), epochs=20)


def _decaying(weight_decay: float) -> Run:
    optimizer = lambda m: torch.optim.AdamW(m.parameters(), 0.003, weight_decay=weight_decay)  # noqa: E731
    return Run(data=lambda: numbers(960, noise=0.1), loss=nn.MSELoss, optimizer=optimizer)


OPTIMIZATION: Mapping[str, Picture] = {
    "vanishing_gradient": Picture(
        "Eight layers of sigmoids, and of ReLU: gradient norms after 100 steps.", SIGMOIDS, RELUS,
        by_layer("grad_norm", 100), ("layer", "gradient norm"), log=True,
    ),
    "exploding_gradient": Picture(
        "SGD with a learning rate of 50, and of 0.1.", _HIGH, curve=scalar("grad_norm"), log=True,
        axes=("step", "gradient norm"),
    ),
    "gradient_spike": Picture(
        "Batches far too large from step 240 to 254, and none.", _noisy_loop(bad=True), _noisy_loop(bad=False),
        scalar("grad_norm"), ("step", "gradient norm"), log=True,
    ),
    "oscillating_loss": Picture(
        "SGD with momentum and a learning rate of 1, and of 0.02.", unsteady(1.0), unsteady(0.02),
        epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "slow_convergence": Picture("SGD with a learning rate of 0.0001, and of 0.1.", LOW),
    "divergence": Picture(
        "From step 80 on, the learning rate is 200 times as large; in the healthy run it stays.",
        Run(data=uncertain, epochs=15, loop=Loop(each_step=_diverging)),
        Run(data=uncertain, epochs=15), log=True,
    ),
    "loss_spike": Picture(
        "Batches far too large from step 240 to 254, and none.", _noisy_loop(bad=True), _noisy_loop(bad=False),
        log=True,
    ),
    "worse_than_simple_model": Picture("A learning rate of 0.0001, and of 0.1: a linear model solves this task.", LOW),
    "learning_rate_too_high": Picture("SGD with a learning rate of 50, and of 0.1.", _HIGH, log=True),
    "learning_rate_too_low": Picture("SGD with a learning rate of 0.0001, and of 0.1.", LOW),
    "wrong_schedule": Picture(
        "The learning rate falls by 10% with each step, and by 1%.", _steps(0.9), _steps(0.99),
        scalar("learning_rate"), ("step", "learning rate"), log=True,
    ),
    "abnormal_update_ratio": Picture(
        "AdamW with a weight decay of 30, and of 0.1: size of the first layer's weights.",
        _decaying(30.0), _decaying(0.1), layer("weight_norm", 0), ("step", "weight norm"), log=True,
    ),
    "stale_second_moment": Picture(
        "Adam with an ε of 1000, which outweighs all gradients, and with the usual one.",
        _ADAM.but(optimizer=lambda m: adam(m, eps=1e3)), _ADAM,
        measured("second_moment_ratio"), ("step", "gradient ÷ second moment"), log=True,
    ),
    "too_few_epochs": Picture(
        "Two epochs, and twenty.", Run(epochs=2, optimizer=lambda m: adam(m, 0.003)),
        Run(epochs=20, optimizer=lambda m: adam(m, 0.003)),
    ),
    "abnormal_initial_loss": Picture(
        "Weights 30 times the usual, and usual ones.", Run(model=lambda: scaled(mlp(), 30.0)), log=True,
    ),
    "poor_initialization": Picture(
        "Weights a tenth of the usual in eight layers of tanh, and twice the usual: step 0.",
        *(Run(model=lambda k=k: scaled(mlp(8, nn.Tanh, 8), k)) for k in (0.1, 2.0)),
        by_layer("activation_spread", 0), ("layer", "spread over inputs"), log=True,
    ),
}  # fmt: skip
