"""Checks whether gradients are reset between two steps of an optimizer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.runtime.observation import observation
from autotrainer.backends.pytorch.runtime.torch_private import is_flattened
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence

__all__ = ["ZeroGradCheck"]

_ENTRIES = 64
"""Evenly strided entries that are compared of each gradient."""


class _GradientMark:
    """One parameter: its gradient as the previous step left it, and its value when the next one is added.

    The hook is on the autograd node that accumulates into ``grad``: it runs in a backward pass, before the addition,
    and neither in `torch.autograd.grad` nor for gradients of other parameters.
    """

    def __init__(
        self,
        parameter: Tensor,
        gradient: Tensor,
        observe: Callable[[_GradientMark, Any], None],
        fail: Callable[[Exception], None],
        stopwatch: Stopwatch,
    ) -> None:
        self.stopwatch = stopwatch
        self._parameter, self._fail = parameter, fail
        self._initial = _entries(gradient).clone()
        self._unchanged: Tensor | None = None
        self._nonzero: Tensor | None = None
        self._reset = False
        self._node = get_gradient_edge(parameter).node  # the hook lives as long as this
        self._handle = self._node.register_prehook(functools.partial(observe, self))

    def remove(self) -> None:
        """Remove the hook."""
        self._handle.remove()

    def observe(self, added: Any) -> None:
        """Compare the gradient: something is about to be added to it."""
        if self._reset:
            return
        with self.stopwatch:
            try:
                with observation():
                    gradient = self._parameter.grad
                    if gradient is None:
                        self._reset = True
                        return
                    now = _entries(gradient)
                    nonzero = (now != 0).any()
                    if self._unchanged is None or self._nonzero is None:
                        both = now.isnan() & self._initial.isnan()
                        self._unchanged = ((now == self._initial) | both).all()
                        self._nonzero = (self._initial != 0).any() & nonzero
                    else:
                        self._nonzero = self._nonzero & nonzero
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's backward pass
                self._fail(error)

    def verdict(self) -> Tensor | float:
        """Return 1 if the gradient of the previous step was still there, 0 if it was reset, NaN if unknown."""
        if self._reset:
            return 0.0
        if self._unchanged is None or self._nonzero is None:
            return math.nan
        undecided = ((self._initial == 0).all() | ~self._unchanged) & self._nonzero | (self._initial == 0).all()
        return torch.where(undecided, math.nan, self._nonzero.float())


class ZeroGradCheck:
    """Follows the gradients of the previous step through one step.

    A gradient that is None or zero at least once when new ones are about to be added was reset: the backward pass of
    another optimizer may have added to it before that, as in the training of adversarial networks.

    Args:
        optimizer: The optimizer; its first, middle and last parameter with a gradient are checked.
        fail: Takes an exception of our own code.
        stopwatch: Measures the time spent in the hooks.
    """

    def __init__(
        self, optimizer: Optimizer, fail: Callable[[Exception], None], stopwatch: Stopwatch | None = None
    ) -> None:
        self._stopwatch = stopwatch or Stopwatch()
        self._optimizer, self._fail = WeakSequence([optimizer]), fail
        self._marks: list[_GradientMark] = []
        # A backward pass in a compiled function would have what it calls compiled, too.
        observe: Callable[[_GradientMark, Any], None] = torch.compiler.disable(_GradientMark.observe)  # type: ignore[no-untyped-call]
        self._observe = observe

    def begin(self) -> None:
        """Mark the gradients that a step has just left: they may still be reset."""
        self.end()
        graded = [p for group in self._optimizer.first.param_groups for p in group["params"] if _is_checkable(p)]
        indices = {0, len(graded) // 2, len(graded) - 1} if graded else set[int]()
        self._marks = [
            _GradientMark(graded[index], graded[index].grad, self._observe, self._fail, self._stopwatch)
            for index in sorted(indices)
        ]

    def end(self) -> None:
        """Remove the hooks, and drop the results."""
        self.stop()
        self._marks = []

    def stop(self) -> None:
        """Remove the hooks, and keep the results for `verdicts`."""
        for mark in self._marks:
            mark.remove()

    def verdicts(self) -> list[Tensor | float]:
        """Return for each marked gradient 1 if it was not reset, 0 if it was, NaN if unknown."""
        return [mark.verdict() for mark in self._marks]


def _is_checkable(parameter: Any) -> bool:
    gradient = parameter.grad
    plain = type(gradient) is Tensor and gradient.layout is torch.strided and not gradient.is_complex()
    return (
        plain and parameter.requires_grad and parameter.is_leaf and gradient.numel() > 0 and not is_flattened(parameter)
    )


def _entries(gradient: Tensor) -> Tensor:
    flat = gradient.detach().reshape(-1)
    return flat[:: math.ceil(flat.numel() / _ENTRIES)]
