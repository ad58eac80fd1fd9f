"""Forward hooks that copies and saved files of a module leave out."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol
from weakref import ref

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.runtime.torch_private import (
    HOOK_TABLES,
    call_implementation,
    compiled_call,
    drop_compiled_call,
    set_compiled_call,
    skip_compilation,
)
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["Hook", "HookHandle", "add_forward_hook", "add_hook", "copies_its_state", "is_compiled", "never_compiled"]


class Hook(functools.partial[Any]):
    """A hook that stays behind when its module is copied, saved or scripted. A `partial`: calling it costs nothing.

    Where a class copies attributes in a way that can't be followed, ``contextlib.nullcontext().__exit__`` takes its
    place: a callable of the standard library that does nothing, so that the saved file can be loaded without
    autotrainer.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


class HookHandle(Protocol):
    """Removes a hook of `add_hook`."""

    @property
    def registered(self) -> bool:
        """Whether the hook is still there."""

    def remove(self) -> None:
        """Remove the hook."""


class _ForwardHook:
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


class _ObservedCall:
    """Calls a module between hooks, in place of `torch.nn.Module.compile`'s result.

    `torch.compile` takes the module's own code instead, without a guard: neither setting nor removing a hook makes it
    compile anything again, and hooks do not see the calls that it compiles.
    """

    __slots__ = ("__weakref__", "after", "before", "module")

    def __init__(self, module: nn.Module) -> None:
        self.module = ref(module)
        self.before: tuple[_CallHook, ...] = ()
        self.after: tuple[_CallHook, ...] = ()

    @passes_on
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module: Any = self.module()
        for each in self.before:
            if each.with_kwargs:
                each.hook(module, args, kwargs)
            else:
                each.hook(module, args)
        try:
            output = call_implementation(module)(*args, **kwargs)
        except BaseException:
            for each in self.after:
                if each.always_call:
                    each.call(module, args, kwargs, None)
            raise
        for each in self.after:
            each.call(module, args, kwargs, output)
        return output


class _CallHook:
    __slots__ = ("_calls", "always_call", "hook", "with_kwargs")

    def __init__(self, calls: _ObservedCall, hook: Callable[..., None], with_kwargs: bool, always_call: bool) -> None:
        self._calls, self.hook, self.with_kwargs, self.always_call = calls, hook, with_kwargs, always_call

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.with_kwargs:
            self.hook(module, args, kwargs, output)
        else:
            self.hook(module, args, output)

    @property
    def registered(self) -> bool:
        module = self._calls.module()
        return module is not None and _observed_call(module) is self._calls

    def remove(self) -> None:
        calls = self._calls
        calls.before = tuple(each for each in calls.before if each is not self)
        calls.after = tuple(each for each in calls.after if each is not self)
        if calls.before or calls.after:
            return
        module = calls.module()
        if module is not None:
            if _observed_call(module) is calls:
                drop_compiled_call(module, vars(module)[_CALL])
            if not _has_hooks(module):
                _expose(module)


def _observed_call(module: nn.Module) -> _ObservedCall | None:
    call = compiled_call(module)
    return call.func if isinstance(call, Hook) and isinstance(call.func, _ObservedCall) else None


def _takes_observed_calls(module: nn.Module) -> bool:
    """Return whether hooks may surround the calls of a module: it is called and copied like `torch.nn.Module`."""
    kind = type(module)
    if kind.__call__ is not nn.Module.__call__ or not copies_its_state(kind):
        return False
    return compiled_call(module) is None or _observed_call(module) is not None


def add_hook(
    module: nn.Module,
    hook: Callable[..., None],
    *,
    before: bool = False,
    with_kwargs: bool = False,
    always_call: bool = False,
) -> HookHandle:
    """Register a hook of which copies of the module keep nothing, and which `torch.compile` does not see if possible.

    Where a class is called or copied in a way of its own, it is a forward hook: keys count from zero in each process,
    so a key left in a saved module would collide with that of a later hook. Attributes of the instance, removed with
    its last hook, answer the protocols by which modules are copied, saved and scripted.

    Args:
        module: The module.
        hook: Called like the hooks of `torch.nn.Module`; must not raise, and returns nothing.
        before: Call it before ``forward`` instead of after it.
        with_kwargs: Pass the keyword arguments, too.
        always_call: Call it after ``forward`` even if that raises.
    """
    if _takes_observed_calls(module):
        return _add_call_hook(module, hook, before, with_kwargs, always_call)
    return add_forward_hook(module, hook, before=before, with_kwargs=with_kwargs, always_call=always_call)


def add_forward_hook(
    module: nn.Module,
    hook: Callable[..., None],
    *,
    before: bool = False,
    with_kwargs: bool = False,
    always_call: bool = False,
) -> HookHandle:
    """Register a forward hook; see `add_hook`. Replicas of `torch.nn.DataParallel` keep it."""
    if before:
        handle = module.register_forward_pre_hook(Hook(hook), with_kwargs=with_kwargs)
    else:
        handle = module.register_forward_hook(Hook(hook), with_kwargs=with_kwargs, always_call=always_call)
    _hide(module)
    return _ForwardHook(module, handle)


def _hide(module: nn.Module) -> None:
    """Set the attributes by which copies of a module leave its hooks out."""
    attributes = vars(module)
    attributes["__reduce_ex__"] = Hook(_reduce, module)
    attributes["__prepare_scriptable__"] = Hook(_prepare_scriptable, module)
    if hasattr(type(module), "__deepcopy__"):
        attributes["__deepcopy__"] = Hook(_deepcopy, module)


def _add_call_hook(
    module: nn.Module, hook: Callable[..., None], before: bool, with_kwargs: bool, always_call: bool
) -> _CallHook:
    calls = _observed_call(module)
    if calls is None:
        calls = _ObservedCall(module)
        set_compiled_call(module, Hook(calls))
        _hide(module)
        vars(module)["_replicate_for_data_parallel"] = Hook(_replicate, module)
    call_hook = _CallHook(calls, hook, with_kwargs, always_call)
    if before:
        calls.before += (call_hook,)
    else:
        calls.after += (call_hook,)
    return call_hook


def copies_its_state(kind: type[nn.Module]) -> bool:
    """Return whether copies of a module are made from the attributes that ``__getstate__`` returns, and only so."""
    protocol = (kind.__reduce_ex__, kind.__reduce__, kind.__getstate__)
    return protocol == (object.__reduce_ex__, object.__reduce__, nn.Module.__getstate__) and not hasattr(
        kind, "__deepcopy__"
    )


_PROTOCOLS = ("__reduce_ex__", "__prepare_scriptable__", "__deepcopy__", "_replicate_for_data_parallel")
_CALL = "_compiled_call_impl"


def _has_hooks(module: nn.Module) -> bool:
    return _observed_call(module) is not None or any(
        isinstance(hook, Hook) for table, *_ in HOOK_TABLES for hook in getattr(module, table).values()
    )


def _expose(module: nn.Module) -> None:
    """Remove the attributes that `add_hook` has set."""
    for name in _PROTOCOLS:
        if isinstance(vars(module).get(name), Hook):
            del vars(module)[name]


@contextmanager
def _hidden_hooks(module: nn.Module) -> Iterator[None]:
    """Take the hooks of `add_hook` out of a module for a while; the order of all hooks is restored."""
    attributes = vars(module)
    protocols = {name: attributes[name] for name in (*_PROTOCOLS, _CALL) if isinstance(attributes.get(name), Hook)}
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
    if _observed_call(module) is not None:
        drop_compiled_call(module, vars(module)[_CALL])
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


def _replicate(module: nn.Module) -> Any:
    """Return a replica of `torch.nn.DataParallel`, which would otherwise call the module itself."""
    replica = type(module)._replicate_for_data_parallel(module)  # type: ignore[no-untyped-call]
    for name in (*_PROTOCOLS, _CALL):
        vars(replica).pop(name, None)
    return replica


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
