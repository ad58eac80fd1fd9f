"""Private names of PyTorch that autotrainer depends on: a release that moves one of them breaks this file alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import _symbolic_trace
from torch.optim import LBFGS, Optimizer
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "HOOK_TABLES",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DisableTorchFunction",
    "Dropout",
    "InstanceNorm",
    "Loss",
    "RunningNorm",
    "TorchDispatchMode",
    "call_implementation",
    "collective_count",
    "compiled_call",
    "compiled_frames",
    "current_autograd_node",
    "default_group",
    "default_store",
    "disabled_dispatch_modes",
    "dispatch_modes",
    "drop_compiled_call",
    "flat_parameters",
    "foreach_difference",
    "foreach_norm",
    "function_modes",
    "gradient_scale",
    "has_function_transform",
    "has_step_hooks",
    "has_transforms",
    "is_flattened",
    "is_mutating",
    "is_step_wrapped",
    "map_tree",
    "prefix_store",
    "refresh_lbfgs",
    "result_shape",
    "set_compiled_call",
    "shards_flat",
    "skip_compilation",
    "sparse_values",
    "step_post_hooks",
    "view_base",
    "write_version",
]

BatchNorm = nn.modules.batchnorm._BatchNorm
InstanceNorm = nn.modules.instancenorm._InstanceNorm
RunningNorm = nn.modules.batchnorm._NormBase
"""Base of batch and instance normalization."""
Conv = nn.modules.conv._ConvNd
ConvTranspose = nn.modules.conv._ConvTransposeNd
Dropout = nn.modules.dropout._DropoutNd
Loss = nn.modules.loss._Loss

DisableTorchFunction = torch._C.DisableTorchFunction

_is_tracing: Callable[[], bool] = torch._C._is_tracing
_function_transform: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
"""Returns how many modes receive each call of a torch function."""
dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack
"""Returns how many modes receive each operation."""

HOOK_TABLES = (
    ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)
"""Attributes of a module that hold its hooks by key, each followed by those that hold options by the same keys."""


def has_function_transform() -> bool:
    """Return whether `torch.func` transforms the code that runs now."""
    return _function_transform() is not None


def has_transforms() -> bool:
    """Return whether `torch.jit.trace`, `torch.func`, `torch.fx` or a mode with tensors of its own handles operations.

    Such modes are those of fake tensors, and of the tracing below `torch.compile`: they alone have a key.
    """
    if _is_tracing() or _symbolic_trace._is_fx_tracing_flag or _function_transform() is not None:
        return True
    if not dispatch_modes():
        return False
    modes = _python_dispatch._get_current_dispatch_mode_stack()
    return any(getattr(mode, "_mode_key", None) is not None for mode in modes)


def disabled_dispatch_modes() -> AbstractContextManager[Any]:
    """Return a context in which no `TorchDispatchMode` receives operations."""
    return _python_dispatch._disable_current_modes()


def foreach_norm(tensors: Sequence[Tensor], order: int = 2) -> list[Tensor]:
    """Return a norm of each tensor, computed in one call: L2, or with order 0 the number of entries that are not 0."""
    return list(torch._foreach_norm(list(tensors), order))


def foreach_difference(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Return what is left of each tensor without another one, computed in one call."""
    return list(torch._foreach_sub(list(tensors), list(others))) if len(tensors) else []


def collective_count(model: nn.Module) -> float:
    """Return how many collective operations the processes of a model have begun; NaN where they are not counted."""
    group = getattr(model, "process_group", None) or default_group()
    try:
        return float(group._get_sequence_number_for_group())
    except (RuntimeError, AttributeError):
        return float("nan")


def default_group() -> Any:
    """Return the group of all processes, which must have been initialized."""
    return torch.distributed.distributed_c10d._get_default_group()


def default_store() -> Any:
    """Return the store through which the processes of the default group have found each other."""
    return torch.distributed.distributed_c10d._get_default_store()


def prefix_store(prefix: str, store: Any) -> Any:
    """Return a store whose keys are those of another one that begin with a prefix."""
    return torch.distributed.PrefixStore(prefix, store)  # type: ignore[attr-defined]


def shards_flat(module: nn.Module) -> bool:
    """Return whether a module is a `FullyShardedDataParallel` that keeps part of its parameters in each process."""
    strategy = getattr(module, "sharding_strategy", None)
    return (
        isinstance(module, torch.distributed.fsdp.FullyShardedDataParallel)
        and strategy is not None
        and (strategy is not torch.distributed.fsdp.ShardingStrategy.NO_SHARD)
    )


def flat_parameters(module: nn.Module) -> list[tuple[Tensor, int]]:
    """Return the parameters that a `FullyShardedDataParallel` itself shards, each with its number of axes.

    These are the flat one, of one axis, and the views into it.
    """
    flat = getattr(getattr(module, "_handle", None), "flat_param", None)
    if flat is None:
        return []
    views = zip(getattr(flat, "_params", None) or (), flat._shapes, strict=False)
    return [(flat, 1), *((view, len(shape)) for view, shape in views)]


def is_flattened(parameter: Tensor) -> bool:
    """Return whether a `FullyShardedDataParallel` has made one parameter of several, or of this one and others.

    It resizes them within each step, so that the node that accumulates into the gradient must be made by it alone.
    """
    return bool(getattr(parameter, "_is_flat_param", False) or getattr(parameter, "_fsdp_flattened", False))


def map_tree(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function to all leaves of nested containers, registered ones included."""
    return torch.utils._pytree.tree_map(function, value)


def skip_compilation(function: Callable[..., None]) -> Callable[..., None]:
    """Have `torch.compile` leave a function alone without wrapping it; `torch.compiler.disable` where that is gone."""
    from torch._dynamo import decorators  # loaded with the first optimizer

    skipped: Callable[..., None] = getattr(decorators, "skip", torch.compiler.disable)(function)
    return skipped


def call_implementation(module: nn.Module) -> Callable[..., Any]:
    """Return what ``module(...)`` runs where the module is not compiled: its hooks and its ``forward``."""
    implementation: Callable[..., Any] = module._call_impl
    return implementation


def compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    """Return what `torch.nn.Module.compile` has put in place of `call_implementation`, or None."""
    compiled: Callable[..., Any] | None = module._compiled_call_impl
    return compiled


def compiled_frames() -> int:
    """Return a number that grows whenever `torch.compile` compiles a function in this process, or tries to."""
    utils = sys.modules.get("torch._dynamo.utils")  # imported by the first `torch.compile`
    if utils is None:
        return 0
    tried, graphs = utils.counters["frames"]["total"], utils.counters["stats"]["unique_graphs"]
    return int(tried + graphs)  # with fullgraph=True, only graphs are counted


def set_compiled_call(module: nn.Module, call: Callable[..., Any]) -> None:
    """Have ``module(...)`` run this instead of `call_implementation`."""
    vars(module)["_compiled_call_impl"] = call  # as setting the attribute does, without its search for tensors


def drop_compiled_call(module: nn.Module, call: Callable[..., Any]) -> None:
    """Undo `set_compiled_call`, unless something else has been put in place since."""
    if vars(module).get("_compiled_call_impl") is call:
        del vars(module)["_compiled_call_impl"]


def gradient_scale(scaler: Any) -> Tensor | None:
    """Return the scale of a `GradScaler`; None before its first loss, where it is disabled, and for None."""
    scale = getattr(scaler, "_scale", None)
    return scale if isinstance(scale, Tensor) else None


def is_step_wrapped(optimizer: Any) -> bool:
    """Return whether a learning-rate scheduler has wrapped the optimizer's ``step``."""
    return hasattr(optimizer.step, "_wrapped_by_lr_sched")


def has_step_hooks(wrapper: Any, optimizer: Optimizer) -> bool:
    """Return whether a wrapper of an optimizer has step hooks other than those of the optimizer."""
    hooks = getattr(wrapper, "_optimizer_step_post_hooks", None)
    return hooks is not None and hooks is not optimizer._optimizer_step_post_hooks


def step_post_hooks(optimizer: Optimizer) -> list[Callable[..., Any]]:
    """Return the hooks that run after each step of an optimizer."""
    return list(optimizer._optimizer_step_post_hooks.values())


def current_autograd_node() -> Any:
    """Return the node of the autograd graph whose gradient is being computed, or None."""
    current = getattr(torch._C, "_current_autograd_node", None)
    return None if current is None else current()


def result_shape(node: Any) -> tuple[int, ...] | None:
    """Return the shape of the one result of an autograd node; None if it has several, or it is not known."""
    results: Any = getattr(node, "_input_metadata", ())  # those of the backward pass
    return tuple(results[0].shape) if len(results) == 1 else None


def signed(number: int) -> int:
    """Return an integer of an autograd node, such as the axis -1, which it may show as an unsigned one."""
    return number - 2**64 if number >= 2**63 else number


def is_mutating(operation: Any) -> bool:
    """Return whether an operation of a `TorchDispatchMode` changes an argument in place."""
    return bool(operation._schema.is_mutable)


def sparse_values(tensor: Tensor) -> Tensor:
    """Return the values of a sparse tensor, which need not be coalesced."""
    return tensor._values()


def refresh_lbfgs(optimizer: LBFGS) -> None:
    """Set what the constructor of LBFGS derives from the parameter groups, which a deep copy leaves out."""
    optimizer._params, optimizer._numel_cache = optimizer.param_groups[0]["params"], None


def view_base(tensor: Tensor) -> Tensor:
    """Return the tensor that a view looks into, or the tensor itself."""
    return tensor._base if tensor._is_view() and tensor._base is not None else tensor


def write_version(tensor: Tensor) -> int:
    """Return how often a tensor was written in place; 0 for one of inference mode, which does not count."""
    return 0 if tensor.is_inference() else tensor._version
