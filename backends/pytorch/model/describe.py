"""What is known of a PyTorch model and its optimizer without running anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo

__all__ = [
    "activation_name",
    "is_scheduled",
    "layer_info",
    "layers",
    "learning_rate",
    "optimizer_info",
    "own_parameters",
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
"""Activations by the name of the class, in lower case."""

_NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.CrossMapLRN2d,
    *((nn.RMSNorm,) if hasattr(nn, "RMSNorm") else ()),
)
_DROPOUTS = (nn.modules.dropout._DropoutNd, nn.AlphaDropout, nn.FeatureAlphaDropout)
_RESHAPES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.Upsample, nn.Fold, nn.Unfold, nn.Identity)
_KINDS: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
    ("norm", _NORMS),
    ("dense", (nn.Linear, nn.Bilinear)),
    ("conv", (nn.modules.conv._ConvNd,)),
    ("recurrent", (nn.RNNBase, nn.RNNCellBase)),
    ("embedding", (nn.Embedding, nn.EmbeddingBag)),
    ("attention", (nn.MultiheadAttention,)),
    ("dropout", _DROPOUTS),
    ("reshape", _RESHAPES),
)
_POOL = re.compile(r"(Max|Avg|LP|FractionalMax|AdaptiveAvg|AdaptiveMax)(Un)?[Pp]ool\dd")
_UNITS = ("out_features", "out_channels", "hidden_size", "embedding_dim", "num_features", "num_channels", "embed_dim")
_WRAPPERS = ("module.", "_orig_mod.")


def activation_name(module: nn.Module) -> str | None:
    """Return the lower-case name of an activation module, or None if it is none.

    A user's own class counts by its name (``Swish``, ``QuickGELU``) if it holds neither tensors nor modules.
    """
    if isinstance(module, nn.Threshold):
        return "thresholded_relu" if module.value == 0 else "threshold"
    known = next((_ACTIVATIONS[t] for t in type(module).__mro__ if t in _ACTIVATIONS), None)
    if known is None and not any((module._parameters, module._buffers, module._modules)):
        return _BY_CLASS.get(type(module).__name__.lower().removesuffix("activation"))
    return known


def _kind(module: nn.Module) -> str:
    if activation_name(module) is not None:
        return "activation"
    if _POOL.fullmatch(type(module).__name__):
        return "pool"
    return next((kind for kind, types in _KINDS if isinstance(module, types)), "other")


def _units(module: nn.Module) -> int | None:
    shape = getattr(module, "normalized_shape", None)
    if isinstance(shape, tuple) and shape:
        return int(shape[-1])
    for name in _UNITS:
        value = getattr(module, name, None)
        if isinstance(value, int) and value > 0:
            both = name == "hidden_size" and getattr(module, "bidirectional", False)
            return 2 * value if both else value
    return None


def _static_activation(module: nn.Module) -> str | None:
    """Return what a module by itself says of its activation."""
    name = activation_name(module)
    if name is not None:
        return name
    if isinstance(module, nn.RNN | nn.RNNCell):
        return str(module.nonlinearity)
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "tanh"
    return "linear" if _kind(module) != "other" else None


def plain_name(name: str) -> str:
    """Strip what `DataParallel`, `DistributedDataParallel`, `torch.compile` and edits put into a layer's name."""
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name.replace("._orig_mod", "").replace(".wrapped_layer", "") if name not in ("module", "_orig_mod") else ""


def own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that a module owns itself, those behind a parametrization included."""
    yield from (parameter for _, parameter in module.named_parameters(recurse=False))
    parametrized = _parametrizations(module)
    if parametrized is not None:
        yield from parametrized.parameters()


def _parametrizations(module: nn.Module) -> nn.Module | None:
    return dict(module.named_children()).get("parametrizations")


def watched_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules that are rows of the layer table, in order of definition, by plain name.

    These are the modules that own parameters, the root among them, and the activation modules. A module that
    stands in several places counts once, under its first name; a root is named after its class.
    """
    found: dict[str, nn.Module] = {}
    inside: set[int] = set()
    for name, module in model.named_modules():
        parametrized = _parametrizations(module)
        if parametrized is not None:
            inside.update(id(m) for m in parametrized.modules())
        if id(module) in inside:
            continue
        if activation_name(module) is not None or next(own_parameters(module), None) is not None:
            found[plain_name(name) or type(module).__name__.lower()] = module
    return found


def layer_info(name: str, module: nn.Module) -> LayerInfo:
    """Describe one module.

    Args:
        name: Its plain name.
        module: The module.

    Returns:
        What can be known without running it; ``activation`` is that of the module itself.
    """
    owned = [p for p in own_parameters(module) if not isinstance(p, UninitializedParameter)]
    trainable = [p for p in own_parameters(module) if p.requires_grad]
    return LayerInfo(
        name=name,
        kind=_kind(module),
        activation=_static_activation(module),
        units=_units(module),
        parameters=sum(p.numel() for p in owned if p.requires_grad),
        frozen=bool(owned) and not trainable,
    )


def layers(model: nn.Module) -> tuple[LayerInfo, ...]:
    """Describe the layers of a model in order of definition.

    Separate activation modules that directly follow a layer in an `nn.Sequential` count as its activation;
    functional calls only show when the model runs.

    Args:
        model: The model.

    Returns:
        One entry for each of `watched_modules`; the last one, and its activation, are not hidden.
    """
    modules = watched_modules(model)
    follower = _followers(model)
    infos = []
    for name, module in modules.items():
        info = layer_info(name, module)
        if info.kind not in ("activation", "recurrent") and id(module) in follower:
            info = replace(info, activation=follower[id(module)])
        infos.append(info)
    for i in range(len(infos) - 1, -1, -1):
        infos[i] = replace(infos[i], hidden=False)
        if infos[i].kind != "activation":
            break
    return tuple(infos)


def _followers(model: nn.Module) -> dict[int, str]:
    """Return, by id of a module in an `nn.Sequential`, the activation that its output goes through there."""
    found: dict[int, str] = {}
    for sequence in model.modules():
        if not isinstance(sequence, nn.Sequential):
            continue
        following: str | None = None
        for module in reversed(list(sequence)):
            name = activation_name(module)
            kind = _kind(module)
            if name is not None:
                following = name
            elif kind == "other":
                following = None
            elif kind in ("norm", "dropout", "pool", "reshape"):
                if following is not None:
                    found[id(module)] = following
            else:
                if following is not None:
                    found[id(module)] = following
                following = None
    return found


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """Describe an optimizer by its first parameter group, its rate by the first that does not rest.

    Args:
        optimizer: `torch.optim.Optimizer`, or None.

    Returns:
        Name in lower case, learning rate, momentum and weight decay; defaults where there is none.
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
    )


def learning_rate(optimizer: Any) -> float:
    """Return the rate of the first parameter group that has one above 0: others may rest on purpose. NaN for none."""
    rates = [float(group.get("lr", float("nan"))) for group in optimizer.param_groups]
    return next((rate for rate in rates if rate > 0), rates[0])


def is_scheduled(optimizer: Any) -> bool:
    """Say whether a schedule of the learning rate is attached to an optimizer, as far as it leaves a trace there.

    Schedulers of `torch.optim.lr_scheduler` wrap the optimizer's step, to check that it comes before their own, and
    note the initial rate; ``ReduceLROnPlateau`` does neither.
    """
    wrapped = hasattr(optimizer.step, "_wrapped_by_lr_sched")
    return wrapped or any("initial_lr" in group for group in optimizer.param_groups)
