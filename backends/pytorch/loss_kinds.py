"""What is known of a loss without calling it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from autotrainer.task import LossInfo

__all__ = ["is_plain", "loss_info"]


def _info(family: str, expects: str, targets: str = "values", class_axis: int = -1) -> dict[str, Any]:
    return {"family": family, "expects": expects, "targets": targets, "class_axis": class_axis}


_CROSS_ENTROPY = _info("cross_entropy", "logits", "either", 1)
_NLL = _info("cross_entropy", "log_probabilities", "index", 1)
_BCE = _info("binary_cross_entropy", "probabilities")
_BCE_LOGITS = _info("binary_cross_entropy", "logits")
_SQUARED = _info("squared_error", "values")
_ABSOLUTE = _info("absolute_error", "values")
_HUBER = _info("huber", "values")
_POISSON = _info("poisson", "log_values")  # unless ``log_input`` says no
_DIVERGENCE = _info("kl_divergence", "log_probabilities")
_MARGIN = _info("hinge", "logits", "index", 1)
_LOSSES: dict[str, dict[str, Any]] = {
    "CrossEntropyLoss": _CROSS_ENTROPY,
    "NLLLoss": _NLL,
    "BCELoss": _BCE,
    "BCEWithLogitsLoss": _BCE_LOGITS,
    "MultiLabelSoftMarginLoss": _BCE_LOGITS,
    "MSELoss": _SQUARED,
    "L1Loss": _ABSOLUTE,
    "SmoothL1Loss": _HUBER,
    "HuberLoss": _HUBER,
    "PoissonNLLLoss": _POISSON,
    "KLDivLoss": _DIVERGENCE,
    "MultiMarginLoss": _MARGIN,
    "SoftMarginLoss": _info("hinge", "logits"),
    "HingeEmbeddingLoss": _info("hinge", "values"),
    "cross_entropy": _CROSS_ENTROPY,
    "nll_loss": _NLL,
    "binary_cross_entropy": _BCE,
    "binary_cross_entropy_with_logits": _BCE_LOGITS,
    "multilabel_soft_margin_loss": _BCE_LOGITS,
    "mse_loss": _SQUARED,
    "l1_loss": _ABSOLUTE,
    "smooth_l1_loss": _HUBER,
    "huber_loss": _HUBER,
    "poisson_nll_loss": _POISSON,
    "kl_div": _DIVERGENCE,
    "multi_margin_loss": _MARGIN,
    "soft_margin_loss": _info("hinge", "logits"),
    "hinge_embedding_loss": _info("hinge", "values"),
}


def loss_info(loss_fn: nn.Module | Callable[..., Any] | None) -> LossInfo:
    """Describe a loss.

    Args:
        loss_fn: Loss module (of `torch.nn`, or any other), function, or None.

    Returns:
        What it computes; family ``custom`` for a loss that is not one of PyTorch's own, ``none`` for None. An
        attribute ``loss_info`` of the loss that holds a `LossInfo` is taken at its word.
    """
    if loss_fn is None:
        return LossInfo(name="none", family="none")
    told = getattr(loss_fn, "loss_info", None)
    if isinstance(told, LossInfo):
        return told
    reduction = str(getattr(loss_fn, "reduction", "mean"))
    log_input = bool(getattr(loss_fn, "log_input", True))
    if isinstance(loss_fn, functools.partial):
        reduction = str(loss_fn.keywords.get("reduction", "mean"))
        log_input = bool(loss_fn.keywords.get("log_input", True))
        loss_fn = loss_fn.func
    if isinstance(loss_fn, nn.Module):
        for kind in type(loss_fn).__mro__:
            if kind.__module__.startswith("torch.nn.") and kind.__name__ in _LOSSES:
                known = LossInfo(name=type(loss_fn).__name__, reduction=reduction, **_LOSSES[kind.__name__])
                return known if log_input else replace(known, expects="values")
        return LossInfo(name=type(loss_fn).__name__, reduction=reduction)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    if str(getattr(loss_fn, "__module__", "")).startswith("torch") and name in _LOSSES:
        known = LossInfo(name=name, reduction=reduction, **_LOSSES[name])
        return known if log_input else replace(known, expects="values")
    return LossInfo(name=name, reduction=reduction)


def is_plain(loss_fn: Any) -> bool:
    """Say whether a loss is PyTorch's own and takes outputs and targets as they are; a subclass may reshape them."""
    return type(loss_fn).__module__ == "torch.nn.modules.loss"
