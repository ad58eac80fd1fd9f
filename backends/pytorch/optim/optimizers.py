"""Edits of optimizers: learning rate, weight decay, momentum, another optimizer, added and removed parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.layers.update_clipping import clip_updates
from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.backends.pytorch.runtime.torch_private import RunningNorm, refresh_lbfgs
from autotrainer.edits import (
    CompleteOptimizer,
    DecayRate,
    Edit,
    ResetOptimizerState,
    RestoreZeroGrad,
    SetLearningRate,
    SetMomentum,
    SetWeightDecay,
    SkipUpdates,
    SwapOptimizer,
    TuneAdam,
    WarmUpRate,
)
from autotrainer.errors import ConfigError

__all__ = [
    "adopt_parameters",
    "edit_optimizer",
    "missing_parameters",
    "optimizer_refusal",
    "owns",
    "parameter_ids",
    "parameter_shapes",
    "set_rate",
]

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
}
_SECOND_MOMENTS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam)
_NORMS = (RunningNorm, nn.LayerNorm, nn.GroupNorm)


def optimizer_refusal(edit: Edit, optimizer: Optimizer) -> str:
    """Return why an edit can't be applied to an optimizer; or an empty string."""
    name, options = type(optimizer).__name__, optimizer.param_groups[0]
    if isinstance(edit, SetLearningRate | SwapOptimizer):
        return "" if "lr" in options or isinstance(edit, SwapOptimizer) else f"{name} has no learning rate"
    if isinstance(edit, SetMomentum):
        if "momentum" not in options:
            return f"{name} has no momentum to set"
        if edit.nesterov and "nesterov" not in options:
            return f"{name} has no Nesterov momentum"
        return ""
    if isinstance(edit, SetWeightDecay):
        return "" if "weight_decay" in options else f"{name} has no weight decay"
    if isinstance(edit, WarmUpRate | DecayRate):
        return "" if "lr" in options else f"{name} has no learning rate"
    if isinstance(edit, TuneAdam) and not isinstance(optimizer, _SECOND_MOMENTS):
        return f"{name} keeps no second moment"
    if isinstance(edit, CompleteOptimizer) and isinstance(optimizer, torch.optim.LBFGS):
        return "LBFGS takes a single parameter group, which its constructor fixes"
    if isinstance(edit, ResetOptimizerState) and isinstance(optimizer, torch.optim.Adagrad):
        return "the state of Adagrad is created by its constructor"
    if isinstance(edit, SkipUpdates) and isinstance(optimizer, torch.optim.LBFGS):
        return "a step of LBFGS computes gradients by itself"
    return ""


def edit_optimizer(optimizer: Optimizer, model: nn.Module, edits: Iterable[Edit]) -> Optimizer:
    """Apply edits to an optimizer that has not taken a step.

    Parameter groups are otherwise unchanged, and their learning rates keep their ratios.

    Args:
        optimizer: The optimizer; changed.
        model: The model whose parameters it has.
        edits: Edits of any kind; those that do not concern optimizers are ignored.

    Returns:
        The optimizer, or another one over the same parameters.

    Raises:
        ConfigError: If an edit can't be applied.
    """
    for edit in edits:
        reason = optimizer_refusal(edit, optimizer)
        if reason:
            raise ConfigError(f"{type(edit).__name__}: {reason}")
        if isinstance(edit, SetLearningRate):
            for group, rate in zip(optimizer.param_groups, _scaled_rates(optimizer, edit.value), strict=True):
                _set_rate(group, rate)
        elif isinstance(edit, SwapOptimizer):
            optimizer = _swapped(optimizer, model, edit)
        elif isinstance(edit, SetMomentum):
            for group in optimizer.param_groups:
                group["momentum"] = edit.value
                if edit.nesterov or "nesterov" in group:
                    group["nesterov"], group["dampening"] = edit.nesterov, 0
        elif isinstance(edit, SetWeightDecay):
            optimizer = _decayed(optimizer, model, edit.value)
        elif isinstance(edit, TuneAdam):
            _tune(optimizer, edit)
        elif isinstance(edit, CompleteOptimizer):
            _complete(optimizer, missing_parameters(optimizer, model, edit.layers))
        elif isinstance(edit, ResetOptimizerState):
            optimizer.state.clear()
        elif isinstance(edit, RestoreZeroGrad):
            optimizer.register_step_post_hook(_zero_gradients)
    return optimizer


def missing_parameters(optimizer: Optimizer, model: nn.Module, layers: Sequence[str] = ()) -> list[nn.Parameter]:
    """Return the trainable parameters that an optimizer lacks.

    Args:
        optimizer: The optimizer.
        model: The model.
        layers: Names of the layers to look in; empty for the whole model.
    """
    modules = watched_modules(model)
    searched = [modules[name] for name in layers if name in modules] if layers else [model]
    owned = parameter_ids(optimizer)
    missing = {id(p): p for module in searched for p in module.parameters() if p.requires_grad and id(p) not in owned}
    return list(missing.values())


def _tune(optimizer: Optimizer, edit: TuneAdam) -> None:
    for group in optimizer.param_groups:
        if edit.beta_2 is not None:
            group["betas"] = (group["betas"][0], edit.beta_2)
        if edit.epsilon is not None:
            group["eps"] = edit.epsilon
    if edit.clip_updates:
        clip_updates(optimizer)


def _complete(optimizer: Optimizer, missing: list[nn.Parameter]) -> None:
    if missing:
        options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        optimizer.add_param_group({**options, "params": missing})


def _zero_gradients(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    optimizer.zero_grad()


def parameter_shapes(model: nn.Module) -> list[tuple[nn.Parameter, torch.Size | None]]:
    """Return the parameters of a model with their shapes; None for those of lazy layers that have none yet."""
    return [(p, None if isinstance(p, UninitializedParameter) else p.shape) for p in model.parameters()]


def adopt_parameters(
    optimizer: Optimizer, model: nn.Module, before: Sequence[tuple[nn.Parameter, torch.Size | None]]
) -> None:
    """Add the parameters that a model has gained to its optimizer, and remove those that it has lost.

    What it has accumulated for parameters of another shape is forgotten.

    Args:
        optimizer: The optimizer; changed. New parameters get the settings of the first group, without decay.
        model: The model after surgery.
        before: Its parameters before surgery, with their shapes then: see `parameter_shapes`.
    """
    _forget(optimizer, [p for p, shape in before if shape is not None and p.shape != shape])
    old, now = {id(p) for p, _ in before}, {id(p) for p in model.parameters()}
    gone = old - now
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in gone]
    held = parameter_ids(optimizer)
    new = [p for p in model.parameters() if id(p) not in old and id(p) not in held]
    if new:
        options = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
        if "weight_decay" in options:
            options["weight_decay"] = 0.0
        optimizer.add_param_group({"params": new, **options})


def _forget(optimizer: Optimizer, resized: Sequence[nn.Parameter]) -> None:
    if resized and isinstance(optimizer, torch.optim.LBFGS):
        optimizer.state.clear()  # vectors of all parameters
        refresh_lbfgs(optimizer)
    for group in optimizer.param_groups:
        for parameter in (p for p in group["params"] if any(p is other for other in resized)):
            state = optimizer.state.pop(parameter, None)
            if state and isinstance(optimizer, torch.optim.Adagrad):  # only its constructor makes one
                total = torch.full_like(parameter, group["initial_accumulator_value"])
                optimizer.state[parameter] = {"step": torch.zeros_like(state["step"]), "sum": total}


def set_rate(optimizer: Optimizer, rate: float) -> bool:
    """Set the learning rate of the first group, keeping the ratios to the others; False if there is no rate."""
    if any("lr" not in group for group in optimizer.param_groups):
        return False
    for group, value in zip(optimizer.param_groups, _scaled_rates(optimizer, rate), strict=True):
        _set_rate(group, value)
    return True


def _scaled_rates(optimizer: Optimizer, value: float) -> list[float]:
    """Return a rate for each group: ``value`` for the first, in the current ratios for the others."""
    rates = [float(group.get("lr", value)) for group in optimizer.param_groups]
    return [value * rate / rates[0] if rates[0] else value for rate in rates]


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate
    group.pop("initial_lr", None)


def _swapped(optimizer: Optimizer, model: nn.Module, edit: SwapOptimizer) -> Optimizer:
    options: dict[str, Any] = {"lr": edit.learning_rate}
    if edit.name in ("sgd", "rmsprop"):
        options["momentum"] = edit.momentum
    elif edit.momentum:
        options["betas"] = (edit.momentum, 0.999)
    rates = _scaled_rates(optimizer, edit.learning_rate)
    groups = [
        {"params": group["params"], "lr": rate} for group, rate in zip(optimizer.param_groups, rates, strict=True)
    ]
    swapped = _OPTIMIZERS[edit.name](groups, **options)
    return _decayed(swapped, model, edit.weight_decay)


def _decayed(optimizer: Optimizer, model: nn.Module, decay: float) -> Optimizer:
    """Set the weight decay of matrices, decoupled if the optimizer supports it; everything else gets none."""
    if type(optimizer) is torch.optim.Adam and decay and "decoupled_weight_decay" not in optimizer.param_groups[0]:
        optimizer = torch.optim.AdamW([_without(g, "decoupled_weight_decay") for g in optimizer.param_groups])
    matrices = {id(p) for p in _matrices(model)}
    groups = []
    for group in optimizer.param_groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (id(p) in matrices) is decays]
            if params:
                groups.append({**group, "params": params, "weight_decay": decay if decays else 0.0})
                if decay and "decoupled_weight_decay" in group:
                    groups[-1]["decoupled_weight_decay"] = True
    optimizer.param_groups = groups
    return optimizer


def _matrices(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if not isinstance(module, _NORMS):
            yield from (p for p in module.parameters(recurse=False) if p.ndim > 1)


def _without(group: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in group.items() if k != name}


def owns(optimizer: Optimizer, model: nn.Module) -> bool:
    """Return whether an optimizer has any of a model's parameters."""
    return not parameter_ids(optimizer).isdisjoint(id(parameter) for parameter in model.parameters())


def parameter_ids(optimizer: Optimizer) -> set[int]:
    """Return the ids of an optimizer's parameters."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
