"""What a Keras loss computes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import keras

from autotrainer.records.task import LossInfo

__all__ = ["LOSS_FUNCTIONS", "loss_info"]

# Errors of logarithms or ratios are not distances on the scale of the targets: they count as custom losses.
_FAMILIES = {
    "categorical_crossentropy": ("cross_entropy", "one_hot"),
    "categorical_focal_crossentropy": ("cross_entropy", "one_hot"),
    "categorical_generalized_cross_entropy": ("cross_entropy", "index"),
    "sparse_categorical_crossentropy": ("cross_entropy", "index"),
    "binary_crossentropy": ("binary_cross_entropy", "values"),
    "binary_focal_crossentropy": ("binary_cross_entropy", "values"),
    "kl_divergence": ("kl_divergence", "values"),
    "mean_squared_error": ("squared_error", "values"),
    "mean_absolute_error": ("absolute_error", "values"),
    "huber": ("huber", "values"),
    "log_cosh": ("huber", "values"),
    "hinge": ("hinge", "values"),
    "squared_hinge": ("hinge", "values"),
    "categorical_hinge": ("hinge", "one_hot"),
    "poisson": ("poisson", "values"),
}
_MODULATED = frozenset(
    {"binary_focal_crossentropy", "categorical_focal_crossentropy", "categorical_generalized_cross_entropy"}
)
_PROBABILITIES = ("cross_entropy", "binary_cross_entropy", "kl_divergence")
_ABBREVIATIONS = {
    "mse": "mean_squared_error",
    "mae": "mean_absolute_error",
    "mape": "mean_absolute_percentage_error",
    "msle": "mean_squared_logarithmic_error",
    "bce": "binary_crossentropy",
    "kld": "kl_divergence",
    "logcosh": "log_cosh",
}


LOSS_FUNCTIONS = tuple(name for name in _FAMILIES if callable(getattr(keras.losses, name, None)))
"""The functions of `keras.losses` whose family is known."""


def loss_info(loss: Any) -> LossInfo:
    """Describe a loss.

    Args:
        loss: Keras loss object, function, name or configuration, `functools.partial` of a loss function, a list or
            dict of them for several outputs (the first counts), or None.

    Returns:
        Its description; family ``custom`` for an unknown loss, ``none`` for None. A loss with the attribute
        ``wrapped_loss`` is described as that loss.
    """
    loss = getattr(loss, "wrapped_loss", loss)
    while isinstance(loss, list | tuple | Mapping) and not _is_configuration(loss):
        losses = list(loss.values()) if isinstance(loss, Mapping) else list(loss)
        loss = losses[0] if losses else None
    if loss is None:
        return LossInfo(name="none", family="none")
    if isinstance(loss, str) or _is_configuration(loss):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return LossInfo(name=str(loss))
    options: dict[str, Any] = {}
    while isinstance(loss, partial):
        options = {**loss.keywords, **options}
        loss = loss.func
    name, options = _loss_name(loss, options)
    family, targets = _FAMILIES.get(name, ("custom", "values"))
    if family == "custom":
        return LossInfo(name=name, reduction=_reduction(loss))
    expects: Any = "values"
    if family in _PROBABILITIES:
        expects = "logits" if options.get("from_logits", False) else "probabilities"
    return LossInfo(
        name=name,
        family=family,
        expects=expects,
        targets=targets,
        class_axis=options["axis"] if isinstance(options.get("axis"), int) else -1,
        reduction=_reduction(loss),
        smoothed=bool(options.get("label_smoothing")),
        modulated=name in _MODULATED,
    )


def _is_configuration(loss: Any) -> bool:
    return isinstance(loss, Mapping) and "class_name" in loss and "config" in loss


def _loss_name(loss: Any, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the canonical name of a loss and its options."""
    if isinstance(loss, keras.losses.Loss):
        options = {**getattr(loss, "_fn_kwargs", {}), **options}
        function = getattr(loss, "fn", None)
        if function is not None and type(loss).__module__.startswith("keras."):
            return _function_name(function), options
        for base in type(loss).__mro__:
            if "call" in vars(base) and not base.__module__.startswith("keras."):
                return _custom_name(_snake(type(loss).__name__)), options
        return (_function_name(function) if function is not None else _snake(type(loss).__name__)), options
    return _function_name(loss), options


def _function_name(function: Any) -> str:
    name = str(getattr(function, "__name__", type(function).__name__))
    if not str(getattr(function, "__module__", "")).startswith("keras."):
        return _custom_name(name)
    return _ABBREVIATIONS.get(name, name)


def _custom_name(name: str) -> str:
    """Return a name that can't be mistaken for that of a Keras loss."""
    return name if _ABBREVIATIONS.get(name, name) not in _FAMILIES else f"custom {name}"


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _reduction(loss: Any) -> str:
    reduction = getattr(loss, "reduction", "mean")
    if reduction in (None, "none"):
        return "none"
    return "sum" if reduction == "sum" else "mean"
