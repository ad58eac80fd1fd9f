"""For each repair, a run with a problem that it mends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253
from torch.optim import lr_scheduler  # noqa: TID253

from autotrainer.records.history import RunHistory
from pictures.curves import epochs, smoothed
from pictures.data import FEW, UNEQUAL, by_label, with_gap
from pictures.loops import DROPPED
from pictures.misordered import PADDED_LAST, RESHAPED
from pictures.models import NUMBERS, ONE_UNIT, careless_loss, signs, without_axis
from pictures.optimization import LOW, SIGMOIDS, unsteady
from pictures.parts import Data, adam, mlp, numbers, ring, rows, scaled, sgd, three_classes
from pictures.run import Loop, Repaired, Run
from pictures.transformers import RECALL

__all__ = ["REPAIRED", "WITHOUT"]

_VALIDATION = epochs("val_loss"), ("epoch", "validation loss")


def _wrong(history: RunHistory) -> tuple[Sequence[float], Sequence[float]]:
    numbers, accuracies = history.epochs("val_accuracy")
    return numbers, 1 - accuracies


def _size(history: RunHistory) -> tuple[Sequence[float], Sequence[float]]:
    steps, losses = history.losses
    return steps, np.abs(losses)


def _rare(history: RunHistory) -> tuple[Sequence[float], Sequence[float]]:
    steps, accuracy = smoothed("rare_accuracy", 30)(history)
    return steps, 1 - np.asarray(accuracy)


def _numbered() -> Data:
    """Return rows with the number of one of three classes, as a column of numbers."""
    x, y = three_classes()
    return x, y[:, None].float()


def _spiked() -> Data:
    """Return noisy rows, a few of which are far too large."""
    x, y = numbers(3200, noise=0.5)
    y[::640] *= 300
    return x, y


def _stale(size: float) -> Run:
    """Return a training with an Adam whose memory comes from gradients of another size."""

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        used = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.0, 0.999))
        start = {name: value.clone() for name, value in model.state_dict().items()}
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, size)
        used.step()
        model.load_state_dict(start)
        return used

    return Run(optimizer=optimizer, epochs=40)


def _three_large() -> Data:
    x, y = numbers()
    return x * torch.tensor([3.0] + 7 * [1.0]), y


_WRONG = _wrong, ("epoch", "share of wrong predictions")
_SIZE = _size, ("step", "size of the training loss")

_STEEP = Run(data=_three_large, loss=nn.MSELoss, model=lambda: mlp(1, nn.Identity), optimizer=lambda m: sgd(m, 0.3))
_FIRST_ONLY = Run(model=lambda: mlp(depth=3), optimizer=lambda m: sgd(m[0], 0.1), epochs=20)  # type: ignore[index]
_ENLARGED = Run(
    model=lambda: scaled(mlp(depth=3), 3.0), data=numbers, loss=nn.MSELoss, optimizer=lambda m: sgd(m, 0.06), epochs=20
)
_DECAYING = FEW.but(optimizer=lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.1))
_NARROW = Run(model=lambda: mlp(1, width=2), optimizer=adam, epochs=60, data=ring)
_LINEAR = Run(model=lambda: nn.Sequential(nn.Linear(2, 32), nn.Linear(32, 1)), optimizer=adam, epochs=60, data=ring)
_HELD_BACK = Run(optimizer=lambda m: torch.optim.SGD(m.parameters(), 0.1, weight_decay=1.0))
_DEAD = Run(model=lambda: scaled(mlp(), 1.0, -100.0), optimizer=adam, epochs=30)
_THOUSANDS = Run(data=lambda: numbers(scale=1000.0), loss=nn.MSELoss, optimizer=adam)
_FADING = Run(scheduler=lambda o: lr_scheduler.ExponentialLR(o, 0.05), epochs=20)
_ONE_FOR_THREE = Run(model=lambda: nn.Sequential(*mlp(), nn.Sigmoid()), data=_numbered, loss=nn.MSELoss, optimizer=adam)
_SPIKED = Run(data=_spiked, loss=nn.MSELoss, optimizer=lambda m: sgd(m, 0.02), validation=numbers)
_SORTED = Run(data=by_label, optimizer=lambda m: sgd(m, 1.0), loop=Loop(shuffled=False), validation=rows)

REPAIRED: Mapping[str, Repaired] = {
    "add_activation": Repaired("insufficient_capacity", _LINEAR),
    "add_dropout": Repaired("overfitting", FEW, *_VALIDATION),
    "add_input_noise": Repaired("overfitting", FEW, *_VALIDATION),
    "add_momentum": Repaired("slow_convergence", Run(optimizer=lambda m: sgd(m, 1e-3))),
    "add_residual": Repaired("vanishing_gradient", SIGMOIDS),
    "change_batch_size": Repaired("oscillating_loss", unsteady(0.3).but(batch_size=4), *_VALIDATION),
    "clip_attention": Repaired("attention_entropy_collapse", RECALL),
    "clip_gradients": Repaired("exploding_gradient", _STEEP, log=True),
    "complete_optimizer": Repaired("parameters_not_optimized", _FIRST_ONLY),
    "drop_bad_rows": Repaired("nonfinite_data", Run(data=with_gap, validation=rows)),
    "encode_targets": Repaired("improper_loss", Run(data=signs), *_SIZE, log=True),
    "extend_training": Repaired("too_few_epochs", Run(epochs=2, optimizer=lambda m: adam(m, 0.003))),
    "fix_loss": Repaired("nonfinite", Run(loss=careless_loss, optimizer=adam)),
    "fix_output_activation": Repaired("improper_output_activation", ONE_UNIT, log=True),
    "insert_normalization": Repaired("vanishing_gradient", SIGMOIDS),
    "lead_padding": Repaired("vanishing_gradient", PADDED_LAST),
    "reduce_on_plateau": Repaired("oscillating_loss", unsteady(0.5), *_VALIDATION),
    "regularize_weights": Repaired("overfitting", _DECAYING, *_VALIDATION),
    "reinitialize": Repaired("saturated_activation", Run(model=lambda: scaled(mlp(32, nn.Tanh, 3), 50.0))),
    "reset_optimizer_state": Repaired("stale_second_moment", _stale(1e8)),
    "reshape_targets": Repaired("target_mismatch", NUMBERS.but(data=without_axis)),
    "resize_hidden_layers": Repaired("insufficient_capacity", _NARROW),
    "resize_output_layer": Repaired("improper_loss", _ONE_FOR_THREE, *_WRONG),
    "restore_axes": Repaired("target_mismatch", RESHAPED),
    "restore_zero_grad": Repaired("missing_zero_grad", Run(loop=Loop(zero_grad=False)), mend=Loop()),
    "revive_units": Repaired("dying_relu", _DEAD),
    "rollback": Repaired("exploding_gradient", _STEEP.but(epochs=20), log=True),
    "scale_inputs": Repaired("abnormal_data", Run(data=lambda: rows(scale=200.0, offset=5000.0)), log=True),
    "scale_learning_rate": Repaired("learning_rate_too_low", LOW),
    "scale_output_layer": Repaired("abnormal_initial_loss", Run(model=lambda: scaled(mlp(), 30.0)), log=True),
    "scale_targets": Repaired("unscaled_targets", _THOUSANDS, log=True),
    "schedule_learning_rate": Repaired("wrong_schedule", _FADING),
    "set_mode": Repaired("wrong_training_mode", DROPPED.but(loop=Loop(evaluates=False)), *_VALIDATION, mend=Loop()),
    "shuffle_data": Repaired("unshuffled_data", _SORTED, *_VALIDATION),
    "skip_update": Repaired("gradient_spike", _SPIKED, *_VALIDATION),
    "stop_early": Repaired("overfitting", FEW, *_VALIDATION),
    "swap_activation": Repaired("vanishing_gradient", SIGMOIDS),
    "swap_optimizer": Repaired("slow_convergence", LOW),
    "tune_adam": Repaired("stale_second_moment", _stale(1e3)),
    "warm_up_learning_rate": Repaired("exploding_gradient", _ENLARGED, log=True),
    "weaken_regularization": Repaired("insufficient_capacity", _HELD_BACK),
    "weight_classes": Repaired("class_imbalance", UNEQUAL, _rare, ("step", "missed share of the rare class")),
}

WITHOUT: Mapping[str, str] = {
    "raise_precision": "it is proposed where `fit` has found that what was first not finite arose in half precision",
    "scale_each_target": "only Keras takes a loss for each output, and the runs of the pictures are in PyTorch",
    "replace_train_step": "only models of Keras have a training step, and the runs of the pictures are in PyTorch",
    "thaw_layers": "a model that is frozen as a whole can't be trained: there is no run before",
}
"""Repairs without a picture, and why."""
