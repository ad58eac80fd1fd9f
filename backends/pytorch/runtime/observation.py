"""Computing statistics in the middle of the user's code, unseen by anything else that observes this code."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.runtime.tensors import is_dtensor_type
from autotrainer.backends.pytorch.runtime.torch_private import (
    DisableTorchFunction,
    TorchDispatchMode,
    disabled_dispatch_modes,
    dispatch_modes,
    has_transforms,
)

__all__ = ["is_transformed", "keep_local", "observation", "paused_collector"]


def is_transformed() -> bool:
    """Return whether the code that runs now is compiled, exported, traced or transformed by `torch.func`.

    Its tensors hold no values then, or must not be kept, and each operation would become part of the result.
    """
    return is_compiling() or has_transforms()


class _LocalOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where an operation would communicate with other processes: not all of them may do the same."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(is_dtensor_type(kind) for kind in types):
            return NotImplemented  # so that the local operations that it consists of arrive here
        if "c10d" in func.namespace and "wait" not in func.__name__:
            raise RuntimeError(f"{func} would communicate with other processes")
        return func(*args, **(kwargs or {}))


_local = False


def keep_local(active: bool) -> None:
    """Have operations within `observation` that communicate with other processes raise from now on, or no longer."""
    global _local
    _local = active


class observation:  # noqa: N801 - a context manager
    """While active, operations record no gradients, and no mode of the user (as a FLOP counter) receives them.

    Entering returns whether the user's code records gradients.
    """

    __slots__ = ("_dispatch", "_function", "_local", "_no_grad")

    def __enter__(self) -> bool:
        self._function = DisableTorchFunction()
        self._function.__enter__()
        records = torch.is_grad_enabled()
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        self._dispatch = disabled_dispatch_modes() if dispatch_modes() else None
        if self._dispatch is not None:
            self._dispatch.__enter__()
        self._local = _LocalOperations() if _local else None  # type: ignore[no-untyped-call]
        if self._local is not None:
            self._local.__enter__()  # type: ignore[no-untyped-call]
        return records

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._local is not None:
            self._local.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if self._dispatch is not None:
            self._dispatch.__exit__(None, None, None)
        self._no_grad.__exit__(None, None, None)
        self._function.__exit__(None, None, None)


@contextmanager
def paused_collector() -> Iterator[None]:
    """Collect no garbage meanwhile: thousands of new objects would have the collector search the whole process.

    Such a search takes longer than describing a thousand layers does. What is garbage is collected soon after.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
