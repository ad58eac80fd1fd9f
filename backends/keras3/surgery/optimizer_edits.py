"""Edits of the optimizer: learning rate, kind, momentum, weight decay, clipping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from autotrainer.backends.keras3.layers.scaled_schedule import ScaledSchedule
from autotrainer.backends.keras3.layers.update_clipping import clip_updates, has_second_moment
from autotrainer.backends.keras3.model.describe import optimizer_info
from autotrainer.backends.keras3.model.optimizers import as_optimizer, inner_optimizer
from autotrainer.edits import (
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    Rollback,
    SetLearningRate,
    SetMomentum,
    SetWeightDecay,
    SwapOptimizer,
    TuneAdam,
    WarmUpRate,
)
from autotrainer.errors import ConfigError, InputError

__all__ = ["OPTIMIZER_EDITS", "check_optimizer_edit", "edited_optimizer", "resolve_optimizer"]

_OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "nadam": keras.optimizers.Nadam,
    "adamax": keras.optimizers.Adamax,
    "rmsprop": keras.optimizers.RMSprop,
}
_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
_RATES = ("initial_learning_rate", "warmup_target", "end_learning_rate", "values")
"""Arguments of Keras' schedules that are rates; every schedule is linear in them."""


def resolve_optimizer(argument: Any) -> Any:
    """Return the optimizer for the user's argument: an object, a name, a configuration, a class or a callable.

    Raises:
        InputError: If it is not one of these, or can't be recreated from its configuration.
    """
    optimizer = as_optimizer(argument)
    try:
        edited_optimizer(optimizer, (), None)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"the optimizer {type(optimizer).__name__} can't be recreated from its configuration: {error}"
        ) from error
    return optimizer


def edited_optimizer(template: Any, edits: Sequence[Edit], model: Any) -> Any:
    """Return a fresh optimizer: the original one with edits.

    Args:
        template: The original optimizer; None for Keras' defaults of the class that an edit asks for.
        edits: Edits in order; those that do not concern the optimizer are ignored.
        model: The model it is for, or None; edits do not decay its biases and normalization parameters.

    Raises:
        ConfigError: If an edit does not fit the optimizer.
    """
    kind, config = _configuration(template)
    decays = False
    for edit in edits:
        apply = OPTIMIZER_EDITS.get(type(edit))
        if apply is not None:
            kind, config = apply(edit, kind, config)
            decays |= bool(getattr(edit, "weight_decay", 0.0)) or isinstance(edit, SetWeightDecay)
    config["learning_rate"] = _with_schedule(config["learning_rate"], kind, config, edits)
    optimizer = kind.from_config(config)
    if any(isinstance(edit, TuneAdam) and edit.clip_updates for edit in edits):
        clip_updates(optimizer)
    if decays and model is not None:
        optimizer.exclude_from_weight_decay(var_list=[v for v in model.trainable_variables if len(v.shape) < 2])
    elif template is not None:
        _copy_decay_exclusions(template, optimizer)
    return optimizer


def check_optimizer_edit(template: Any, edit: Edit) -> None:
    """Raise the `ConfigError` that `edited_optimizer` would raise."""
    edited_optimizer(template, (edit,), None)


def _configuration(template: Any) -> tuple[Any, dict[str, Any]]:
    if template is None:
        return keras.optimizers.SGD, {"learning_rate": 0.01}
    inner = inner_optimizer(template)  # `compile` adds loss scaling again
    rate = inner._learning_rate
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return type(inner), inner.get_config()
    # A schedule has no state, and a custom one may have no configuration: use the object itself.
    shadow = object.__new__(type(inner))
    vars(shadow).update({**vars(inner), "_learning_rate": 0.0})
    return type(inner), {**shadow.get_config(), "learning_rate": rate}


def _copy_decay_exclusions(template: Any, optimizer: Any) -> None:
    """Copy the pattern of variables that are not decayed: it is not part of the configuration."""
    inner = inner_optimizer(template)
    pattern = getattr(inner, "_exclude_from_weight_decay_pattern", None)
    if pattern is not None:
        optimizer.exclude_from_weight_decay(var_names=[pattern.pattern])


def _scaled(rate: Any, value: float, reference: float) -> Any:
    """Return the new rate, or the schedule scaled so that it starts at the new rate."""
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        return value
    if not math.isfinite(reference) or reference <= 0:
        return value
    factor = value / reference
    if type(rate).__module__.startswith("keras."):
        config = rate.get_config()
        for name in _RATES:
            if config.get(name) is not None:
                old = config[name]
                config[name] = [v * factor for v in old] if isinstance(old, list | tuple) else old * factor
        return type(rate).from_config(config)
    return ScaledSchedule(rate, factor)


def _set_learning_rate(edit: SetLearningRate, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    rate = config["learning_rate"]
    reference = optimizer_info(kind.from_config(dict(config))).learning_rate
    return kind, {**config, "learning_rate": _scaled(rate, edit.value, reference)}


def _with_schedule(rate: Any, kind: Any, config: dict[str, Any], edits: Sequence[Edit]) -> Any:
    """Return the learning rate, with the Keras schedule that the edits ask for.

    Raises:
        ConfigError: If it has a schedule already, or is also to be reduced.
    """
    warm_up = next((e for e in edits if isinstance(e, WarmUpRate)), None)
    decay = next((e for e in edits if isinstance(e, DecayRate)), None)
    if warm_up is None and (decay is None or not decay.steps):  # a decay of unknown length belongs to `fit`
        return rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        if decay is None or not decay.instead:
            raise ConfigError("the optimizer already follows a learning-rate schedule")
        rate = optimizer_info(kind.from_config(dict(config))).learning_rate
    if any(isinstance(edit, ReduceOnPlateau | Rollback) for edit in edits):
        raise ConfigError("a learning rate that follows a schedule can't be reduced as well")
    warm_up_steps = 0 if warm_up is None else warm_up.steps
    decay_steps = 1 if decay is None else max(1, decay.steps - warm_up_steps)
    return keras.optimizers.schedules.CosineDecay(
        rate / warm_up_steps if warm_up_steps else rate,
        decay_steps,
        alpha=1.0 if decay is None else decay.floor,
        warmup_target=rate if warm_up_steps else None,
        warmup_steps=warm_up_steps,
    )


def _tune_adam(edit: TuneAdam, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if not has_second_moment(kind):
        raise ConfigError(f"{kind.__name__} keeps no second moment")
    settings = {"beta_2": edit.beta_2, "epsilon": edit.epsilon}
    return kind, {**config, **{name: value for name, value in settings.items() if value is not None}}


def _swap_optimizer(edit: SwapOptimizer, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    _, scaled = _set_learning_rate(SetLearningRate(edit.learning_rate), kind, config)
    new_config = {"learning_rate": scaled["learning_rate"]}
    new_config.update({name: config[name] for name in _CLIPPING if config.get(name) is not None})
    if edit.momentum:
        if edit.name not in ("sgd", "rmsprop"):
            raise ConfigError(f"{edit.name} has no momentum to set")
        new_config["momentum"] = edit.momentum
    if edit.weight_decay or edit.name == "adamw":
        new_config["weight_decay"] = edit.weight_decay
    return _OPTIMIZERS[edit.name], new_config


def _set_momentum(edit: SetMomentum, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if "momentum" not in config:
        raise ConfigError(f"{kind.__name__} has no momentum to set: only SGD and RMSprop have")
    changed = {**config, "momentum": edit.value}
    if "nesterov" in config:
        changed["nesterov"] = edit.nesterov
    return kind, changed


def _set_weight_decay(edit: SetWeightDecay, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    if "weight_decay" not in config:
        raise ConfigError(f"{kind.__name__} has no weight decay to set")
    return kind, {**config, "weight_decay": edit.value}


def _clip_gradients(edit: ClipGradients, kind: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    changed = {**config, **dict.fromkeys(_CLIPPING)}
    changed["clipvalue" if edit.kind == "value" else "global_clipnorm"] = edit.limit
    return kind, changed


OPTIMIZER_EDITS: Mapping[type[Edit], Callable[[Any, Any, dict[str, Any]], tuple[Any, dict[str, Any]]]] = {
    SetLearningRate: _set_learning_rate,
    SwapOptimizer: _swap_optimizer,
    SetMomentum: _set_momentum,
    SetWeightDecay: _set_weight_decay,
    ClipGradients: _clip_gradients,
    TuneAdam: _tune_adam,
}
