"""Computing statistics in the middle of the user's code, unseen by anything else that observes this code."""

from __future__ import annotations

from types import TracebackType

import torch
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.runtime.torch_private import (
    DisableTorchFunction,
    disabled_dispatch_modes,
    dispatch_modes,
    has_transforms,
)

__all__ = ["is_transformed", "observation"]


def is_transformed() -> bool:
    """Return whether the code that runs now is compiled, exported, traced or transformed by `torch.func`.

    Its tensors hold no values then, or must not be kept, and each operation would become part of the result.
    """
    return is_compiling() or has_transforms()


class observation:  # noqa: N801 - a context manager
    """While active, operations record no gradients, and no mode of the user (as a FLOP counter) receives them.

    Entering returns whether the user's code records gradients.
    """

    __slots__ = ("_dispatch", "_function", "_no_grad")

    def __enter__(self) -> bool:
        self._function = DisableTorchFunction()
        self._function.__enter__()
        records = torch.is_grad_enabled()
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        self._dispatch = disabled_dispatch_modes() if dispatch_modes() else None
        if self._dispatch is not None:
            self._dispatch.__enter__()
        return records

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._dispatch is not None:
            self._dispatch.__exit__(None, None, None)
        self._no_grad.__exit__(None, None, None)
        self._function.__exit__(None, None, None)
