"""Hooks on modules that their copies and saved files leave out."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

__all__ = ["Hook", "HookHandle", "add_hook", "copies_its_state", "is_compiled", "never_compiled"]

_TABLES = (
    ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
)


class Hook(functools.partial[None]):
    """A hook that stays behind when the module that has it is copied or saved. Called at the speed of C.

    A class that copies its attributes in its own way gets ``contextlib.nullcontext().__exit__`` in its place: a
    callable of the standard library that does nothing, so that what is saved can be loaded without autotrainer.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class HookHandle:
    """Removes a hook of `add_hook`."""

    __slots__ = ("_handle", "_module")

    def __init__(self, module: nn.Module, handle: RemovableHandle) -> None:
        self._module, self._handle = module, handle

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()
        module = self._module
        if not any(isinstance(hook, Hook) for table, *_ in _TABLES for hook in getattr(module, table).values()):
            vars(module).pop("__getstate__", None)


def add_hook(module: nn.Module, hook: Callable[..., None], *, before: bool = False, **options: Any) -> HookHandle:
    """Register a forward hook that copies of the module do not have: not the hook, nor the key that it goes by.

    Keys count from zero in each process, so one that is left in a saved module meets that of a later hook.

    Args:
        module: The module.
        hook: Is called as the hooks of `torch.nn.Module` are.
        before: Call it before ``forward``, not after.
        **options: Of ``register_forward_hook`` or ``register_forward_pre_hook``.
    """
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(Hook(hook), **options)
    if copies_its_state(type(module)):
        vars(module)["__getstate__"] = functools.partial(_state_without_hooks, module)
    return HookHandle(module, handle)


def copies_its_state(kind: type[nn.Module]) -> bool:
    """Say whether all copies of a module are made of what ``__getstate__`` returns: all its attributes."""
    own = (kind.__reduce_ex__, kind.__reduce__, kind.__getstate__)
    return own == (object.__reduce_ex__, object.__reduce__, nn.Module.__getstate__) and not hasattr(
        kind, "__deepcopy__"
    )


def _state_without_hooks(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = nn.Module.__getstate__(module)  # type: ignore[no-untyped-call]
    del state["__getstate__"]
    for hooks, *options in _TABLES:
        kept = OrderedDict((key, hook) for key, hook in state[hooks].items() if not isinstance(hook, Hook))
        if len(kept) < len(state[hooks]):
            state |= {name: OrderedDict((k, v) for k, v in state[name].items() if k in kept) for name in options}
            state[hooks] = kept
    return state


def never_compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Have `torch.compile` leave a function alone, at no cost to its calls; what it calls is another matter.

    A compiled optimizer's step then calls it as it is. `torch.compiler.disable` wraps it: 0.2 µs a call.
    """
    from torch._dynamo import decorators  # loaded with the first optimizer

    marked: Callable[..., None] = getattr(decorators, "skip", torch.compiler.disable)(function)
    return marked


def is_compiled(model: nn.Module) -> bool:
    """Say whether a model is a script, or `torch.compile` has had a hand in any part of it: it takes no hooks then."""
    if isinstance(model, torch.jit.ScriptModule):
        return True
    return any(
        type(m).__name__ == "OptimizedModule" or _is_compiled_call(m._compiled_call_impl) for m in model.modules()
    )


def _is_compiled_call(call: Callable[..., Any] | None) -> bool:
    return call is not None and not isinstance(call, Hook)
