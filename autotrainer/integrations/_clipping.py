"""Reads gradients before a library clips them, where the library has no event for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from autotrainer.adapter.function_patch import FunctionPatch
from autotrainer.adapter.observer import LibraryObserver
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.tracebacks import passes_on

__all__ = ["GradientReader"]


class GradientReader:
    """Has a monitor read the gradients of each sampled step when ``torch.nn.utils.clip_grad_norm_`` is called.

    That function is replaced until `end` by one that calls it: accelerate, and so the Trainer of Hugging Face, clips by
    it once the gradients are complete and unscaled.

    Args:
        monitor: The monitor; its observer is a `LibraryObserver`.
        optimizer: The optimizer whose step takes the gradients.
    """

    def __init__(self, monitor: Monitor, optimizer: Any) -> None:
        import torch

        self._monitor, self._optimizer = monitor, optimizer
        self._owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        self._step = -1  # whose gradients have been read
        self._patch = FunctionPatch(torch.nn.utils, "clip_grad_norm_", self._wrap)

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        read = weak_method(self._read)

        @passes_on
        def clip_grad_norm_(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            read(parameters)
            return original(parameters, *args, **kwargs)

        return clip_grad_norm_

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
        """Restore the function."""
        self._patch.undo()

    def __del__(self) -> None:
        if hasattr(self, "_patch"):
            self._patch.undo()
