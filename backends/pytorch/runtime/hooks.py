"""Forward hooks that copies and saved files of a module leave out."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.runtime.torch_private import HOOK_TABLES, compiled_call, skip_compilation

__all__ = ["Hook", "HookHandle", "add_hook", "copies_its_state", "is_compiled", "never_compiled"]


class Hook(functools.partial[Any]):
    """A hook that stays behind when its module is copied, saved or scripted. A `partial`: calling it costs nothing.

    Where a class copies attributes in a way that can't be followed, ``contextlib.nullcontext().__exit__`` takes its
    place: a callable of the standard library that does nothing, so that the saved file can be loaded without
    autotrainer.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class HookHandle:
    """Removes a hook of `add_hook`."""

    __slots__ = ("_handle", "_module")

    def __init__(self, module: nn.Module, handle: RemovableHandle) -> None:
        self._module, self._handle = module, handle

    @property
    def registered(self) -> bool:
        """Whether the hook is still there: `torch.jit.script` removes it."""
        hooks = self._handle.hooks_dict_ref()
        return hooks is not None and self._handle.id in hooks

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()
        if not _has_hooks(self._module):
            _expose(self._module)


def add_hook(module: nn.Module, hook: Callable[..., None], *, before: bool = False, **options: Any) -> HookHandle:
    """Register a forward hook of which copies of the module keep nothing: neither the hook nor its key.

    Keys count from zero in each process, so a key left in a saved module would collide with that of a later hook.
    Attributes of the instance, removed with its last hook, answer the protocols by which modules are copied, saved and
    scripted.

    Args:
        module: The module.
        hook: Called like the hooks of `torch.nn.Module`.
        before: Call it before ``forward`` instead of after it.
        **options: Passed to ``register_forward_hook`` or ``register_forward_pre_hook``.
    """
    register = module.register_forward_pre_hook if before else module.register_forward_hook
    handle = register(Hook(hook), **options)
    attributes = vars(module)
    attributes["__reduce_ex__"] = Hook(_reduce, module)
    attributes["__prepare_scriptable__"] = Hook(_prepare_scriptable, module)
    if hasattr(type(module), "__deepcopy__"):
        attributes["__deepcopy__"] = Hook(_deepcopy, module)
    return HookHandle(module, handle)


def copies_its_state(kind: type[nn.Module]) -> bool:
    """Return whether copies of a module are made from the attributes that ``__getstate__`` returns, and only so."""
    protocol = (kind.__reduce_ex__, kind.__reduce__, kind.__getstate__)
    return protocol == (object.__reduce_ex__, object.__reduce__, nn.Module.__getstate__) and not hasattr(
        kind, "__deepcopy__"
    )


_PROTOCOLS = ("__reduce_ex__", "__prepare_scriptable__", "__deepcopy__")


def _has_hooks(module: nn.Module) -> bool:
    return any(isinstance(hook, Hook) for table, *_ in HOOK_TABLES for hook in getattr(module, table).values())


def _expose(module: nn.Module) -> None:
    """Remove the attributes that `add_hook` has set."""
    for name in _PROTOCOLS:
        if isinstance(vars(module).get(name), Hook):
            del vars(module)[name]


@contextmanager
def _hidden_hooks(module: nn.Module) -> Iterator[None]:
    """Take the hooks of `add_hook` out of a module for a while; the order of all hooks is restored."""
    attributes = vars(module)
    protocols = {name: attributes[name] for name in _PROTOCOLS if isinstance(attributes.get(name), Hook)}
    tables = [(attributes[name], list(attributes[name].items())) for names in HOOK_TABLES for name in names]
    _remove_hooks(module)
    try:
        yield
    finally:
        for table, items in tables:
            table.clear()
            table.update(items)
        attributes.update(protocols)


def _remove_hooks(module: nn.Module) -> None:
    for hooks, *options in HOOK_TABLES:
        table = getattr(module, hooks)
        for key in [key for key, hook in table.items() if isinstance(hook, Hook)]:
            for name in (hooks, *options):
                getattr(module, name).pop(key, None)
    _expose(module)


def _reduce(module: nn.Module, protocol: int) -> Any:
    """Reduce a module by its class's own way, as if it had none of our hooks."""
    with _hidden_hooks(module):
        reduced = module.__reduce_ex__(protocol)
        if not isinstance(reduced, tuple) or len(reduced) < 3:
            return reduced
        function, arguments, state, *rest = reduced
        if isinstance(state, dict):  # the tables get the hooks back before the state is pickled
            names = [name for table in HOOK_TABLES for name in table]
            copied = {name: OrderedDict(state[name]) for name in names if state.get(name) is getattr(module, name)}
            state = {**state, **copied}
        return function, arguments, state, *rest


def _deepcopy(module: nn.Module, memo: dict[int, Any]) -> Any:
    with _hidden_hooks(module):
        return type(module).__deepcopy__(module, memo)  # type: ignore[attr-defined]


def _prepare_scriptable(module: nn.Module) -> nn.Module:
    """Remove the hooks: `torch.jit.script` would compile them. Returns what is to be scripted."""
    _remove_hooks(module)
    prepare = getattr(type(module), "__prepare_scriptable__", None)
    prepared: nn.Module = module if prepare is None else prepare(module)
    return prepared


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
