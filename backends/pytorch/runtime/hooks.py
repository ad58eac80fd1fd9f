"""Forward hooks that copies and saved files of a module leave out."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.runtime.torch_private import HOOK_TABLES, compiled_call, skip_compilation

__all__ = ["Hook", "HookHandle", "add_hook", "copies_its_state", "is_compiled", "never_compiled"]


class Hook(functools.partial[None]):
    """A hook that stays behind when its module is copied or saved. A `partial`, so calling it costs next to nothing.

    A class with its own way of copying attributes gets ``contextlib.nullcontext().__exit__`` in its place: a callable
    of the standard library that does nothing, so that the saved file can be loaded without autotrainer.
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
        if not any(isinstance(hook, Hook) for table, *_ in HOOK_TABLES for hook in getattr(module, table).values()):
            vars(module).pop("__getstate__", None)


def add_hook(module: nn.Module, hook: Callable[..., None], *, before: bool = False, **options: Any) -> HookHandle:
    """Register a forward hook of which copies of the module keep nothing: neither the hook nor its key.

    Keys count from zero in each process, so a key left in a saved module would collide with that of a later hook.

    Args:
        module: The module.
        hook: Called like the hooks of `torch.nn.Module`.
        before: Call it before ``forward`` instead of after it.
        **options: Passed to ``register_forward_hook`` or ``register_forward_pre_hook``.
    """
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(Hook(hook), **options)
    if copies_its_state(type(module)):
        vars(module)["__getstate__"] = functools.partial(_state_without_hooks, module)
    return HookHandle(module, handle)


def copies_its_state(kind: type[nn.Module]) -> bool:
    """Return whether copies of a module are made from the attributes that ``__getstate__`` returns, and only so."""
    protocol = (kind.__reduce_ex__, kind.__reduce__, kind.__getstate__)
    return protocol == (object.__reduce_ex__, object.__reduce__, nn.Module.__getstate__) and not hasattr(
        kind, "__deepcopy__"
    )


def _state_without_hooks(module: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = nn.Module.__getstate__(module)  # type: ignore[no-untyped-call]
    del state["__getstate__"]
    for hooks, *options in HOOK_TABLES:
        kept = OrderedDict((key, hook) for key, hook in state[hooks].items() if not isinstance(hook, Hook))
        if len(kept) < len(state[hooks]):
            state |= {name: OrderedDict((k, v) for k, v in state[name].items() if k in kept) for name in options}
            state[hooks] = kept
    return state


def never_compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Have `torch.compile` leave a function alone, at no cost per call; the functions it calls may still be compiled.

    A compiled optimizer's step then calls it unchanged. `torch.compiler.disable` would wrap it: 0.2 µs a call.
    """
    return skip_compilation(function)


def is_compiled(model: nn.Module) -> bool:
    """Return whether a model takes no hooks: it is a TorchScript module, or any part of it is compiled."""
    if isinstance(model, torch.jit.ScriptModule):
        return True
    return any(type(m).__name__ == "OptimizedModule" or _is_compiled_call(compiled_call(m)) for m in model.modules())


def _is_compiled_call(call: Callable[..., Any] | None) -> bool:
    return call is not None and not isinstance(call, Hook)
