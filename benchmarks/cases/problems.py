"""Problem names that count as the cause of each fault."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FAULT_PROBLEMS", "SYMPTOM_PROBLEMS"]

_RATE_TOO_HIGH = ("exploding_gradient", "nonfinite", "oscillating_loss", "learning_rate_too_high", "divergence")

FAULT_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    "NaN in the data": ("nonfinite_data",),
    "attention weights too large": ("attention_entropy_collapse", "poor_initialization"),
    "batch size": (),
    "batch too large": ("slow_convergence",),
    "batch too small": ("oscillating_loss", "learning_rate_too_high"),
    "bad initialisation": ("poor_initialization", "dying_relu"),
    "class absent from training": ("validation_mismatch", "class_imbalance"),
    "class imbalance": ("class_imbalance",),
    "dead activation": ("dying_relu",),
    "doubled softmax": ("improper_output_activation", "improper_loss"),
    "dropout too high": ("insufficient_capacity",),
    "gradient clipping far too small": ("slow_convergence", "learning_rate_too_low"),
    "labels -1/1 with cross-entropy": ("target_mismatch", "improper_loss"),
    "labels 1..2 with cross-entropy": ("target_mismatch", "improper_loss"),
    "labels 1..2 with 3 outputs": ("target_mismatch",),
    "labels of other rows": ("shuffled_labels", "unlearnable_targets"),
    "labels wrong shape": ("target_mismatch",),
    "log of a negative number": ("nonfinite", "improper_output_activation"),
    "log of zero": ("nonfinite",),
    "lr too high": _RATE_TOO_HIGH,
    "lr too low": ("slow_convergence", "learning_rate_too_low"),
    "missing activation": ("improper_output_activation",),
    "missing normalisation": ("abnormal_data",),
    "missing zero_grad": ("missing_zero_grad",),
    "momentum too high": _RATE_TOO_HIGH,
    "optimizer": (),
    "parameters not optimized": ("parameters_not_optimized",),
    "redundant softmax": ("improper_output_activation", "improper_loss"),
    "rows not shuffled": ("unshuffled_data",),
    "schedule stepped per batch": ("wrong_schedule", "learning_rate_too_low"),
    "softmax over the wrong axis": ("improper_output_activation",),
    "summed loss": ("exploding_gradient", "learning_rate_too_high"),
    "summed loss at a rate for means": _RATE_TOO_HIGH,
    "targets not scaled": ("unscaled_targets",),
    "targets out of output range": ("unscaled_targets", "improper_output_activation"),
    "test data not scaled": ("validation_mismatch",),
    "too few epochs": ("too_few_epochs", "slow_convergence"),
    "too few units (1-unit bottleneck)": ("insufficient_capacity",),
    "too few units": ("insufficient_capacity",),
    "too many layers": ("vanishing_gradient",),
    "weight decay too strong": ("insufficient_capacity", "abnormal_update_ratio"),
    "wrong hidden activation": ("vanishing_gradient", "saturated_activation", "dying_relu"),
    "wrong loss": ("improper_loss",),
    "wrong mode": ("wrong_training_mode",),
    "wrong optimizer": (),
    "wrong output activation": ("improper_output_activation",),
    "wrong output units": ("target_mismatch", "improper_output_activation"),
}
"""Problem names that count as the cause of a fault. Deliberately narrow: no entry lists `not_learning`."""

SYMPTOM_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    "nonfinite": ("nonfinite", "exploding_gradient", "divergence"),
    "oscillating_loss": ("oscillating_loss", "learning_rate_too_high"),
}
"""Alternative names of a symptom: an overflowing activation may be reported while it grows or once it is infinite."""
