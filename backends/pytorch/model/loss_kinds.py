"""Describes a loss without calling it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.records.task import LossInfo

__all__ = ["class_weights", "fitted_loss_info", "is_plain", "loss_info"]

_ROUNDING = 1e-3
"""Largest difference from 1 of the sum of a row's probabilities that is rounding."""


def _info(family: str, expects: str, targets: str = "values", class_axis: int = -1) -> dict[str, Any]:
    return {"family": family, "expects": expects, "targets": targets, "class_axis": class_axis}


_CROSS_ENTROPY = _info("cross_entropy", "logits", "either", 1)
_NLL = _info("cross_entropy", "log_probabilities", "index", 1)
_CTC = _info("custom", "log_probabilities")  # of alignments: no output belongs to a target
_BCE = _info("binary_cross_entropy", "probabilities")
_BCE_LOGITS = _info("binary_cross_entropy", "logits")
_SQUARED = _info("squared_error", "values")
_ABSOLUTE = _info("absolute_error", "values")
_HUBER = _info("huber", "values")
_POISSON = _info("poisson", "log_values")  # unless ``log_input`` is false
_DIVERGENCE = _info("kl_divergence", "log_probabilities")
_MARGIN = _info("hinge", "logits", "index", 1)
_RANKING = _info("ranking", "unknown")
_LOSSES: dict[str, dict[str, Any]] = {
    "CrossEntropyLoss": _CROSS_ENTROPY,
    "CTCLoss": _CTC,
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
    "MarginRankingLoss": _RANKING,
    "TripletMarginLoss": _RANKING,
    "TripletMarginWithDistanceLoss": _RANKING,
    "cross_entropy": _CROSS_ENTROPY,
    "ctc_loss": _CTC,
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
    "margin_ranking_loss": _RANKING,
    "triplet_margin_loss": _RANKING,
    "triplet_margin_with_distance_loss": _RANKING,
}


def loss_info(loss_fn: nn.Module | Callable[..., Any] | None) -> LossInfo:
    """Describe a loss.

    Args:
        loss_fn: Loss module (of `torch.nn`, or any other), function, or None.

    Returns:
        What it computes; family ``custom`` for a loss that is not PyTorch's, ``none`` for None. A `LossInfo` in an
        attribute ``loss_info`` of the loss takes precedence.
    """
    if loss_fn is None:
        return LossInfo(name="none", family="none")
    declared = getattr(loss_fn, "loss_info", None)
    if isinstance(declared, LossInfo):
        return declared
    names = ("reduction", "log_input", "weight", "pos_weight", "margin", "full", "beta", "delta", "label_smoothing")
    options = {name: getattr(loss_fn, name) for name in names if hasattr(loss_fn, name)}
    if isinstance(loss_fn, functools.partial):
        options, loss_fn = loss_fn.keywords, loss_fn.func
    reduction = str(options.get("reduction", "mean"))
    weighted = any(_unequal(options.get(name)) for name in ("weight", "pos_weight"))
    weighted |= bool(options.get("full")) or any(options.get(name, 1) != 1 for name in ("beta", "delta"))
    kind = ""
    if isinstance(loss_fn, nn.Module):
        name = type(loss_fn).__name__
        kinds = (k.__name__ for k in type(loss_fn).__mro__ if k.__module__.startswith("torch.nn."))
        kind = next((k for k in kinds if k in _LOSSES), "")
    else:
        name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
        if str(getattr(loss_fn, "__module__", "")).startswith("torch") and name in _LOSSES:
            kind = name
    if not kind:
        return LossInfo(name=name, reduction=reduction)
    smoothed = bool(options.get("label_smoothing"))
    info = LossInfo(name=name, reduction=reduction, weighted=weighted, smoothed=smoothed, **_LOSSES[kind])
    if info.family == "ranking" and reduction == "mean" and "margin" in options:
        info = replace(info, margin=float(options["margin"]))
    return info if options.get("log_input", True) else replace(info, expects="values")


def fitted_loss_info(loss_fn: Any, outputs: Any, targets: Any) -> LossInfo:
    """Describe a loss that gets these outputs and targets.

    The classes are on the last axis if shapes, or rows that sum to 1, fit no other way: a subclass of PyTorch's
    cross-entropy may flatten sequences. PyTorch's own can't be computed then, or compares positions instead of classes.

    Args:
        loss_fn: As for `loss_info`.
        outputs: Outputs of the model, or None.
        targets: Targets, or None.
    """
    info = loss_info(loss_fn)
    known = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    if not known or info.class_axis < 0 or outputs.ndim <= 2:
        return info
    if targets.shape == outputs.shape:
        first, last = (bool(((targets.sum(axis) - 1).abs() <= _ROUNDING).all()) for axis in (1, -1))
    else:
        first, last = (targets.numel() * outputs.shape[axis] == outputs.numel() for axis in (1, -1))
    return replace(info, class_axis=-1) if last and not first else info


def class_weights(loss_fn: Any) -> Tensor | None:
    """Return the weights of classes 0, 1, … in a loss of PyTorch: shape (classes,), or (labels, 2); None without any.

    Those of a binary cross-entropy are 1 and its ``pos_weight``.
    """
    if isinstance(loss_fn, nn.BCEWithLogitsLoss):
        return of_positives(loss_fn.pos_weight)
    return loss_fn.weight if isinstance(loss_fn, nn.CrossEntropyLoss | nn.NLLLoss) else None


def of_positives(weights: Tensor | None) -> Tensor | None:
    """Return the weights of the classes 0 and 1 for the weights of positive labels, as `class_weights`."""
    if weights is None or weights.ndim > 1:
        return None
    return torch.stack([torch.ones_like(weights), weights], dim=-1).reshape(-1, 2)


def _unequal(weights: Any) -> bool:
    """Return whether these are class weights that are not all 1."""
    return isinstance(weights, Tensor) and bool((weights != 1).any())


def is_plain(loss_fn: Any) -> bool:
    """Return whether a loss is a class of PyTorch itself; a subclass may reshape outputs and targets."""
    return type(loss_fn).__module__ == "torch.nn.modules.loss"
