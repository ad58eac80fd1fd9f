"""Describes a PyTorch model and its optimizer without running anything."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from autotrainer.backends.pytorch.runtime.torch_private import BatchNorm, Conv, Dropout, RunningNorm, is_step_wrapped
from autotrainer.records.measurement import is_norm_name
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo

__all__ = [
    "activation_name",
    "direct_parameters",
    "is_scheduled",
    "layer_info",
    "layers",
    "learning_rate",
    "names_checkpoint",
    "optimizer_info",
    "own_parameter",
    "plain_name",
    "watched_modules",
]

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.RReLU: "rrelu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.SELU: "selu",
    nn.CELU: "celu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Hardsigmoid: "hard_sigmoid",
    nn.Hardswish: "hard_silu",
    nn.Hardtanh: "hard_tanh",
    nn.Sigmoid: "sigmoid",
    nn.LogSigmoid: "log_sigmoid",
    nn.Tanh: "tanh",
    nn.Tanhshrink: "tanh_shrink",
    nn.Softplus: "softplus",
    nn.Softsign: "softsign",
    nn.Softshrink: "soft_shrink",
    nn.Hardshrink: "hard_shrink",
    nn.Softmax: "softmax",
    nn.Softmax2d: "softmax",
    nn.Softmin: "softmin",
    nn.LogSoftmax: "log_softmax",
    nn.GLU: "glu",
}

_BY_CLASS = {
    **{name.replace("_", ""): name for name in _ACTIVATIONS.values() if name != "glu"},
    "exp": "exponential",
    "exponential": "exponential",
    "fastgelu": "gelu",
    "hardswish": "hard_silu",
    "newgelu": "gelu",
    "quickgelu": "gelu",
    "swish": "silu",
}
"""Activations by lower-case class name, for custom classes."""

_NORMS: tuple[type[nn.Module], ...] = (
    RunningNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
_DROPOUTS = (Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)
_RESHAPES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample, nn.Fold, nn.Unfold, nn.Identity)
_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("norm", _NORMS),
    ("dense", (nn.Linear, nn.Bilinear)),
    ("conv", (Conv,)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
    ("attention", (nn.MultiheadAttention,)),
    ("dropout", _DROPOUTS),
    ("reshape", _RESHAPES),
)
_POOL = re.compile(r"(Max|Avg|LP|FractionalMax|AdaptiveAvg|AdaptiveMax)(Un)?[Pp]ool\dd")
_UNITS = ("out_features", "out_channels", "hidden_size", "embedding_dim", "num_features", "num_channels", "embed_dim")
_INPUTS = ("in_features", "in_channels", "input_size", "num_embeddings", "embed_dim")
_WRAPPERS = ("module.", "_orig_mod.")


def activation_name(module: nn.Module) -> str | None:
    """Return the lower-case name of an activation module; None for any other module.

    A custom class counts by its name (``Swish``, ``QuickGELU``) if it holds neither tensors nor modules.
    """
    if isinstance(module, nn.Threshold):
        return "thresholded_relu" if module.value == 0 else "threshold"
    activation = next((_ACTIVATIONS[t] for t in type(module).__mro__ if t in _ACTIVATIONS), None)
    if activation is None and not any((module._parameters, module._buffers, module._modules)):
        return _BY_CLASS.get(type(module).__name__.lower().removesuffix("activation"))
    return activation


def _kind(module: nn.Module) -> str:
    if activation_name(module) is not None:
        return "activation"
    if _POOL.fullmatch(type(module).__name__):
        return "pool"
    kind = next((kind for kind, types in _KINDS if isinstance(module, types)), "other")
    return "norm" if kind == "other" and _is_custom_norm(module) else kind


def _is_custom_norm(module: nn.Module) -> bool:
    """Return whether a module of a custom class is a normalization: by its name, and vectors as its only parameters."""
    if not is_norm_name(type(module).__name__) or module._modules:
        return False
    vectors = [parameter for parameter in module._parameters.values() if parameter is not None]
    lazy = any(isinstance(parameter, UninitializedParameter) for parameter in vectors)
    return bool(vectors) and not lazy and all(parameter.ndim == 1 for parameter in vectors)


def _units(module: nn.Module, kind: str) -> int | None:
    shape = _attribute(module, "normalized_shape")
    if isinstance(shape, tuple) and shape:
        return int(shape[-1])
    for name in _UNITS:
        value = _attribute(module, name)
        if isinstance(value, int) and value > 0:
            both = name == "hidden_size" and getattr(module, "bidirectional", False)
            return 2 * value if both else value
    shape = _matrix_shape(module, kind)
    if shape is not None:
        return shape[1] if _is_transposed(module) else shape[0]
    return (
        next((len(p) for p in module._parameters.values() if p is not None), None) if _is_custom_norm(module) else None
    )


def _inputs(module: nn.Module, kind: str) -> int | None:
    for name in _INPUTS:
        value = _attribute(module, name)
        if isinstance(value, int) and value > 0:
            return value
    shape = _matrix_shape(module, kind)
    return None if shape is None else shape[0] if _is_transposed(module) else shape[1]


def own_parameter(module: nn.Module, name: str) -> Any:
    """Return a parameter of a module itself, or None. Traced modules keep theirs in no dictionary."""
    return next((parameter for each, parameter in module._parameters.items() if each == name), None)


def _attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute that a module may have, or None: faster than `getattr` where it does not have it."""
    plain = type(module).__getattr__ is nn.Module.__getattr__  # it looks for tensors and modules alone
    if plain and name not in vars(module) and not hasattr(type(module), name):
        return None
    return getattr(module, name, None)


def _matrix_shape(module: nn.Module, kind: str) -> tuple[int, int] | None:
    """Return the shape of the ``weight`` of a custom class that works like a dense layer."""
    weight = own_parameter(module, "weight")
    if kind != "other" or not isinstance(weight, nn.Parameter) or isinstance(weight, UninitializedParameter):
        return None
    return (weight.shape[0], weight.shape[1]) if weight.ndim == 2 else None


def _is_transposed(module: nn.Module) -> bool:
    """Return whether a custom class keeps its weight as (inputs, units), as ``Conv1D`` of GPT-2 does."""
    return type(module).__name__ == "Conv1D"


def _static_activation(module: nn.Module, kind: str) -> str | None:
    """Return the activation of a module as far as the module itself determines it."""
    name = activation_name(module)
    if name is not None:
        return name
    if isinstance(module, nn.RNN | nn.RNNCell):
        return str(module.nonlinearity)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "tanh"
    return "linear" if kind != "other" else None


def plain_name(name: str) -> str:
    """Strip from a layer's name what `DataParallel`, `DistributedDataParallel`, `torch.compile` and edits add to it."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod", "").replace(".wrapped_layer", "") if name not in ("module", "_orig_mod") else ""


def direct_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters of a module without those of its submodules, but with those behind a parametrization."""
    parameters = [p for p in module._parameters.values() if p is not None]
    yield from parameters if len(parameters) < 2 else dict.fromkeys(parameters)  # without one of two names twice
    parametrized = _parametrizations(module)
    if parametrized is not None:
        yield from parametrized.parameters()


def _parametrizations(module: nn.Module) -> nn.Module | None:
    modules = module._modules
    return modules["parametrizations"] if "parametrizations" in modules else None  # noqa: SIM401 - scripted: no get()


def watched_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that are rows of the layer table, in order of definition, by plain name.

    These are the modules with direct parameters, including the root, and the activation modules. A module that is
    used in several places counts once, under its first name; the root is named after its class.
    """
    rows: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        parametrized = _parametrizations(module)
        if parametrized is not None:
            inside.update(id(m) for m in parametrized.modules())
        if id(module) in inside:
            continue
        if activation_name(module) is not None or next(direct_parameters(module), None) is not None:
            rows[plain_name(name) or type(module).__name__.lower()] = module
    return rows


def layer_info(name: str, module: nn.Module) -> LayerInfo:
    """Describe one module.

    Args:
        name: Its plain name.
        module: The module.

    Returns:
        What is known without running it; ``activation`` is that of the module itself.
    """
    parameters, kind = list(direct_parameters(module)), _kind(module)
    owned = [p for p in parameters if not isinstance(p, UninitializedParameter)]
    sized = kind != "activation" or bool(parameters)
    return LayerInfo(
        name=name,
        kind=kind,
        activation=_static_activation(module, kind),
        units=_units(module, kind) if sized else None,
        inputs=_inputs(module, kind) if sized else None,
        parameters=sum(p.numel() for p in owned if p.requires_grad),
        frozen=bool(owned) and not any(p.requires_grad for p in parameters),
        averaging=_averaging(module),
    )


def _averaging(module: nn.Module) -> float | None:
    """Return `LayerInfo.averaging` of a module."""
    if not (isinstance(module, BatchNorm) and module.track_running_stats):
        return None
    return None if module.momentum is None else float(module.momentum)


def layers(
    model: nn.Module, modules: Mapping[str, nn.Module] | None = None, infos: Sequence[LayerInfo] | None = None
) -> tuple[LayerInfo, ...]:
    """Describe the layers of a model in order of definition.

    A separate activation module that directly follows a layer in an `nn.Sequential` counts as its activation;
    functional calls are visible only when the model runs, so that what follows other layers is unknown.

    Args:
        model: The model.
        modules: What `watched_modules` returns for it, if that is known.
        infos: What `layer_info` returns for each of them, if that is known.

    Returns:
        One entry for each of `watched_modules`; the last one, and its activation, are not hidden.
    """
    modules = watched_modules(model) if modules is None else modules
    described = [layer_info(name, module) for name, module in modules.items()] if infos is None else list(infos)
    kinds = {id(module): info.kind for module, info in zip(modules.values(), described, strict=True)}
    followers = _followers(model, kinds)
    passed_on = {id(m) for part in model.modules() if isinstance(part, nn.Sequential) for m in list(part)[:-1]}
    passed_on.add(id(model))
    for i, module in enumerate(modules.values()):
        info = described[i]
        if info.kind not in ("activation", "recurrent") and id(module) in followers:
            activation: str | None = followers[id(module)]
        elif info.activation == "linear" and info.kind in ("dense", "conv") and id(module) not in passed_on:
            activation = None
        else:
            continue
        if activation != info.activation:
            described[i] = replace(info, activation=activation)
    for i in range(len(described) - 1, -1, -1):
        described[i] = replace(described[i], hidden=False)
        if described[i].kind != "activation":
            break
    return tuple(described)


def _followers(model: nn.Module, kinds: Mapping[int, str]) -> dict[int, str]:
    """Return the activation that follows each module of an `nn.Sequential`, by the module's id."""
    followers: dict[int, str] = {}
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        following: str | None = None
        for module in reversed(list(sequence)):
            kind = kinds.get(id(module)) or _kind(module)
            if kind == "activation":
                following = activation_name(module)
            elif kind == "other":
                following = None
            elif kind in ("norm", "dropout", "pool", "reshape"):
                if following is not None:
                    followers[id(module)] = following
            else:
                if following is not None:
                    followers[id(module)] = following
                following = None
    return followers


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """Describe an optimizer by its first parameter group, and by the first learning rate above 0.

    Args:
        optimizer: `torch.optim.Optimizer`, or None.

    Returns:
        Lower-case name, learning rate, momentum and weight decay; defaults without an optimizer.
    """
    if optimizer is None or not optimizer.param_groups:
        return OptimizerInfo()
    group = optimizer.param_groups[0]
    return OptimizerInfo(
        name=type(optimizer).__name__.lower(),
        learning_rate=learning_rate(optimizer),
        momentum=float(group.get("momentum", 0.0)),
        weight_decay=float(group.get("weight_decay", 0.0)),
        scheduled=is_scheduled(optimizer),
        group_rates=group_rates(optimizer),
    )


def group_rates(optimizer: Any) -> tuple[float, ...]:
    """Return the learning rates of the parameter groups with trainable parameters, if they differ; else none."""
    groups = [group for group in optimizer.param_groups if any(p.requires_grad for p in group["params"])]
    rates = tuple(float(group.get("lr", float("nan"))) for group in groups)
    return rates if len(set(rates)) > 1 else ()


def learning_rate(optimizer: Any) -> float:
    """Return the first learning rate above 0 of the parameter groups (0 may be intended); NaN if there is none."""
    rates = [float(group.get("lr", float("nan"))) for group in optimizer.param_groups]
    return next((rate for rate in rates if rate > 0), rates[0])


def names_checkpoint(model: nn.Module) -> bool:
    """Return whether a model's configuration names a checkpoint, as that of a model of Transformers does."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    return isinstance(name, str) and bool(name)


def is_scheduled(optimizer: Any) -> bool:
    """Return whether a learning-rate scheduler is attached to an optimizer, as far as it leaves a trace there.

    Schedulers of `torch.optim.lr_scheduler` wrap the optimizer's ``step`` and record the initial rate;
    ``ReduceLROnPlateau`` does neither.
    """
    return is_step_wrapped(optimizer) or any("initial_lr" in group for group in optimizer.param_groups)


def steps_in_memory(optimizer: Any) -> Tensor | float:
    """Return the steps that the memory of an optimizer counts, as Adam's does; NaN if there is no counter.

    Those of the last parameter that has a counter; on its device, if it is there.
    """
    for group in reversed(optimizer.param_groups):
        for parameter in reversed(group["params"]):
            steps = optimizer.state[parameter].get("step") if parameter in optimizer.state else None
            if isinstance(steps, Tensor):
                return steps.detach().reshape(-1)[0].float().clone()
            if isinstance(steps, int | float):
                return float(steps)
    return float("nan")
