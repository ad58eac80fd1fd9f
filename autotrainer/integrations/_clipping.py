"""Reads gradients before a library clips them, where the library has no event for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.adapter.observer import LibraryObserver
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["GradientReader"]


class GradientReader:
    """Has a monitor read the gradients of each sampled step before a function of ``torch.nn.utils`` clips them.

    The functions are replaced until `end` by ones that call them: accelerate, and so the Trainer of Hugging Face, clips
    by them once the gradients are complete and unscaled; which of them depends on its version.

    Args:
        monitor: The monitor; its observer is a `LibraryObserver`.
        optimizer: The optimizer whose step takes the gradients.
    """

    def __init__(self, monitor: Monitor, optimizer: Any) -> None:
        import torch

        self._monitor, self._optimizer = monitor, optimizer
        self._owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._step = -1  # whose gradients have been read
        self._patches = [
            FunctionPatch(torch.nn.utils, name, self._wrap)
            for name in ("clip_grad_norm_", "clip_grads_with_norm_", "clip_grad_value_")
            if hasattr(torch.nn.utils, name)  # the second one is not in every version
        ]

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        read = weak_method(self._read)

        @passes_on
        def clip(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(parameters, Iterator):
                parameters = list(parameters)  # can be read once only
            read(parameters)
            return original(parameters, *args, **kwargs)

        return clip

    def _read(self, parameters: Any) -> None:
        observer = None if self._monitor.closed else cast(LibraryObserver | None, self._monitor.observer)
        if observer is None or not isinstance(parameters, list):
            return
        with self._monitor.guard("reading the gradients"):
            step = observer.steps
            if step != self._step and self._owns(parameters):
                self._step = step
                observer.read_gradients(self._optimizer)

    def _owns(self, parameters: list[Any]) -> bool:
        """Return whether the optimizer has one of the parameters; those of another model are clipped elsewhere."""
        return any(id(each) in self._owned for each in parameters)

    def end(self) -> None:
        """Restore the functions."""
        for patch in self._patches:
            patch.undo()

    def __del__(self) -> None:
        if hasattr(self, "_patches"):
            self.end()
