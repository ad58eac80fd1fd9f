"""Faulty and healthy runs: inputs, targets and how they are divided."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

from pictures.curves import epochs, smoothed
from pictures.parts import Data, adam, mlp, numbers, rows
from pictures.run import Loop, Picture, Run

__all__ = ["DATA", "FEW", "UNEQUAL", "by_label", "with_gap"]


def with_gap() -> Data:
    """Return rows of which one misses a value."""
    x, y = rows()
    x[200, 3] = math.nan
    return x, y


def by_label() -> Data:
    """Return rows in the order of their labels."""
    x, y = rows()
    order = y[:, 0].argsort(stable=True)
    return x[order], y[order]


def _first_batch() -> Data:
    """Return the rows of one batch of `Run`, over and over."""
    x, y = rows()
    return x[:32].repeat(len(x) // 32, 1), y[:32].repeat(len(y) // 32, 1)


def unequal() -> Data:
    """Return rows of which one in 25 is of the second class, shifted by less than its spread."""
    y = (torch.arange(1200) < 48).float()[:, None]
    return torch.randn(1200, 8) + 0.8 * y, y


def _shifted() -> Data:
    x, y = rows()
    return x, y.roll(1, 0)


def _unrelated(count: int) -> Data:
    x, y = rows(count)
    return x, y[torch.randperm(count)]


def _shared(count: int) -> Data:
    """Return validation rows of which some are training rows."""
    x, y = numbers(500, noise=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        train, wanted = numbers(100, noise=1.0)
    return torch.cat([train[:count], x[count:]]), torch.cat([wanted[:count], y[count:]])


def _seven() -> Data:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return numbers(100, noise=1.0)


FEW = Run(
    data=lambda: numbers(100, noise=1.0), validation=lambda: numbers(500, noise=1.0), loss=nn.MSELoss, optimizer=adam,
    model=lambda: mlp(128), epochs=60,
)  # fmt: skip
UNEQUAL = Run(data=unequal, model=lambda: mlp(4, nn.Tanh), optimizer=lambda m: adam(m, 3e-3), epochs=8)
_LARGE = Run(model=lambda: mlp(256), optimizer=lambda m: adam(m, 0.02), epochs=40, by="fit")
_LEAKY = FEW.but(data=_seven, by="fit", epochs=30)
_VALIDATED = Run(validation=rows, optimizer=adam, by="fit")

DATA: Mapping[str, Picture] = {
    "abnormal_data": Picture(
        "Inputs around 5000 with a spread of 200, and standardized ones.",
        Run(data=lambda: rows(scale=200.0, offset=5000.0)), log=True,
    ),
    "nonfinite_data": Picture(
        "One row with a missing value: from its batch on there is no loss.", Run(data=with_gap),
    ),
    "unshuffled_data": Picture(
        "Rows in the order of their labels, and in a new order in each epoch.",
        Run(data=by_label, loop=Loop(shuffled=False)),
    ),
    "repeated_batch": Picture(
        "The first 32 rows in each step, and all of them.",
        _LARGE.but(data=_first_batch, loop=Loop(shuffled=False), validation=rows), _LARGE.but(validation=rows),
        epochs("val_loss"), ("epoch", "validation loss"), log=True,
    ),
    "unscaled_targets": Picture(
        "Targets of a thousand, and standardized ones: loss ÷ its first value.",
        *(Run(data=lambda k=k: numbers(scale=k), loss=nn.MSELoss, optimizer=adam) for k in (1000.0, 1.0)),
        lambda history: (history.losses[0], history.losses[1] / history.losses[1][0]),
        ("step", "relative loss"), log=True,
    ),
    "class_imbalance": Picture(
        "One row in 25 is of the second class; in the healthy run, these rows weigh 24 times as much.",
        UNEQUAL, UNEQUAL.but(loss=lambda: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(24.0))),
        smoothed("rare_accuracy", 30), ("step", "accuracy on the rare class"),
    ),
    "overfitting": Picture(
        "A network of 128 units on 100 noisy rows, and on 5,000.", FEW,
        FEW.but(data=lambda: numbers(5000, noise=1.0), optimizer=lambda m: adam(m, 0.001), epochs=8),
        epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "data_leakage": Picture(
        "A fifth of the validation rows are training rows, and none: the network overfits in both.",
        _LEAKY.but(validation=lambda: _shared(100)), _LEAKY.but(validation=lambda: _shared(0)),
        epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "validation_mismatch": Picture(
        "Validation rows with 20 times the scale of the training rows, and with the same.",
        _VALIDATED.but(validation=lambda: rows(scale=20.0)), _VALIDATED,
        epochs("val_loss"), ("epoch", "validation loss"), log=True,
    ),
    "shuffled_labels": Picture(
        "Each row has the label of the row before it, and its own.",
        Run(data=_shifted, validation=_shifted, optimizer=adam, by="check"),
        Run(validation=rows, optimizer=adam, by="check"),
        epochs("val_loss"), ("epoch", "validation loss"),
    ),
    "unlearnable_targets": Picture(
        "Labels drawn at random, which a network of 256 units memorizes, and labels that follow from the inputs.",
        _LARGE.but(data=lambda: _unrelated(400), validation=lambda: _unrelated(400)),
        _LARGE.but(data=lambda: rows(400), validation=lambda: rows(400)),
        epochs("val_loss"), ("epoch", "validation loss"), log=True,
    ),
}  # fmt: skip
