"""Problem names that count as the cause of each fault."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["FAULT_PROBLEMS", "SYMPTOM_PROBLEMS", "TRANSFORMER_PROBLEMS"]

_RATE_TOO_HIGH = ("exploding_gradient", "nonfinite", "oscillating_loss", "learning_rate_too_high", "divergence")

_ATTENTION = ("sibling_outlier", "attention_entropy_collapse")

_UNTRAINED = ("parameters_not_optimized", "no_gradient", "sibling_outlier")

TRANSFORMER_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    **{f"{part} projection zero": _UNTRAINED for part in ("query", "key", "value", "output")},
    **{f"{part} projection not trained": _UNTRAINED for part in ("query", "key", "output")},
    **{f"{part} projection scaled": (*_ATTENTION, "poor_initialization") for part in ("query", "key")},
    **{f"{part} projection scaled": ("sibling_outlier", "poor_initialization") for part in ("value", "output")},
    "accumulation not scaled": ("wrong_accumulation", *_RATE_TOO_HIGH),
    "attention head dead": ("sibling_outlier",),
    "attention mask": ("broken_attention_mask",),
    "attention over queries": ("broken_attention_mask", "attention_entropy_collapse", "sibling_outlier"),
    "attention scale": _ATTENTION,
    "checkpoint not loaded": ("checkpoint_not_loaded",),
    "dropout in evaluation": ("unstable_evaluation",),
    "embedding not trained": ("embedding_unused", "parameters_not_optimized", "checkpoint_not_loaded"),
    "embedding of another model": ("checkpoint_not_loaded", "embedding_unused"),
    "embedding rows unused": ("embedding_unused", "parameters_not_optimized"),
    "embedding scaled": ("sibling_outlier", "poor_initialization"),
    "feed-forward bias": ("sibling_outlier", "dying_relu", "saturated_activation", "poor_initialization"),
    "feed-forward not trained": _UNTRAINED,
    "feed-forward scaled": ("sibling_outlier", "poor_initialization"),
    "feed-forward without activation": ("sibling_outlier", "insufficient_capacity"),
    "feed-forward zero": _UNTRAINED,
    "head zero": (*_UNTRAINED, "poor_initialization"),
    "labels not shifted": ("target_mismatch", "validation_mismatch", "improper_loss"),
    "norm missing": ("abnormal_normalization", "sibling_outlier"),
    "norm over the wrong axis": ("abnormal_normalization", "rows_mixed", "broken_attention_mask"),
    "norm scale": ("abnormal_normalization", "sibling_outlier"),
    "norm without effect": ("abnormal_normalization", "sibling_outlier"),
    "positions not trained": ("ignored_positions", "no_gradient"),
    "positions of another model": ("checkpoint_not_loaded", "ignored_positions"),
    "positions scaled": ("sibling_outlier", "poor_initialization"),
    "positions unused": ("ignored_positions", "no_gradient"),
    "schedule stepped several times": ("wrong_schedule", "learning_rate_too_low"),
    "shortcut": ("sibling_outlier", "vanishing_gradient", "exploding_gradient", "poor_initialization"),
    "weights no longer tied": ("embedding_unused", "checkpoint_not_loaded"),
    "wrong token read": ("broken_attention_mask", "ignored_input"),
}
"""Problem names that count as the cause of a fault of a transformer."""

FAULT_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    **TRANSFORMER_PROBLEMS,
    "NaN in the data": ("nonfinite_data",),
    "attention weights too large": ("attention_entropy_collapse", "poor_initialization"),
    "batch size": (),
    "batch too large": ("slow_convergence", "too_few_epochs"),
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
    "loss terms unbalanced": ("loss_term_imbalance",),
    "log of a negative number": ("nonfinite", "improper_output_activation"),
    "log of zero": ("nonfinite",),
    "lr too high": _RATE_TOO_HIGH,
    "lr too low": ("slow_convergence", "learning_rate_too_low"),
    "missing activation": ("improper_output_activation",),
    "missing normalisation": ("abnormal_data",),
    "missing zero_grad": ("missing_zero_grad",),
    "momentum too high": _RATE_TOO_HIGH,
    "no nonlinearity": ("insufficient_capacity", "worse_than_simple_model"),
    "no positions": ("ignored_positions", "insufficient_capacity"),
    "optimizer": (),
    "parameters frozen": ("parameters_not_optimized",),
    "posterior collapse": ("loss_term_imbalance", "representation_collapse"),
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
    "validation of other classes": ("validation_mismatch", "unshuffled_data"),
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
