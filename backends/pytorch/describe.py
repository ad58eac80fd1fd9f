"""What is known of a PyTorch model, loss and optimizer without running anything."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from autotrainer.signals import LayerInfo
from autotrainer.task import LossInfo, OptimizerInfo

__all__ = [
    "activation_name",
    "is_plain",
    "layer_info",
    "layers",
    "loss_info",
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


def _info(family: str, expects: str, targets: str = "values", class_axis: int = -1) -> dict[str, Any]:
    return {"family": family, "expects": expects, "targets": targets, "class_axis": class_axis}


_CROSS_ENTROPY = _info("cross_entropy", "logits", "either", 1)
_NLL = _info("cross_entropy", "log_probabilities", "index", 1)
_BCE = _info("binary_cross_entropy", "probabilities")
_BCE_LOGITS = _info("binary_cross_entropy", "logits")
_SQUARED = _info("squared_error", "values")
_ABSOLUTE = _info("absolute_error", "values")
_HUBER = _info("huber", "values")
_POISSON = _info("poisson", "values")
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
    if isinstance(loss_fn, functools.partial):
        reduction = str(loss_fn.keywords.get("reduction", "mean"))
        loss_fn = loss_fn.func
    if isinstance(loss_fn, nn.Module):
        for kind in type(loss_fn).__mro__:
            if kind.__module__.startswith("torch.nn.") and kind.__name__ in _LOSSES:
                return LossInfo(name=type(loss_fn).__name__, reduction=reduction, **_LOSSES[kind.__name__])
        return LossInfo(name=type(loss_fn).__name__, reduction=reduction)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    if str(getattr(loss_fn, "__module__", "")).startswith("torch") and name in _LOSSES:
        return LossInfo(name=name, reduction=reduction, **_LOSSES[name])
    return LossInfo(name=name, reduction=reduction)


def is_plain(loss_fn: Any) -> bool:
    """Say whether a loss is PyTorch's own and takes outputs and targets as they are; a subclass may reshape them."""
    return type(loss_fn).__module__ == "torch.nn.modules.loss"


def optimizer_info(optimizer: Any) -> OptimizerInfo:
    """Describe an optimizer by its first parameter group.

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
        learning_rate=float(group.get("lr", float("nan"))),
        momentum=float(group.get("momentum", 0.0)),
        weight_decay=float(group.get("weight_decay", 0.0)),
    )
