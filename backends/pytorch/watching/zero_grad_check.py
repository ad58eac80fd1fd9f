"""Sees whether gradients are reset between one step of an optimizer and the next."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer

__all__ = ["GradientResets"]

_ENTRIES = 64
"""Evenly strided entries that are compared of each gradient."""


class _Mark:
    """One parameter: its gradient as the step before has left it, and what it is when new ones are added to it.

    The hook is on the node of autograd that adds to ``grad``: it runs in a backward pass, before the addition, and
    neither in `torch.autograd.grad` nor for the gradients of other parameters.
    """

    def __init__(
        self, parameter: Tensor, gradient: Tensor, see: Callable[[_Mark, Any], None], fail: Callable[[Exception], None]
    ) -> None:
        self.seconds = 0.0
        self._parameter, self._fail = parameter, fail
        self._before = _entries(gradient).clone()
        self._same: Tensor | None = None
        self._kept: Tensor | None = None
        self._reset = False
        self._node = get_gradient_edge(parameter).node  # the hook lives as long as this
        self._handle = self._node.register_prehook(functools.partial(see, self))

    def remove(self) -> None:
        """Take the hook away."""
        self._handle.remove()

    def see(self, added: Any) -> None:
        """Look at the gradient: something is about to be added to it."""
        if self._reset:
            return
        started = perf_counter()
        try:
            gradient = self._parameter.grad
            if gradient is None:
                self._reset = True
                return
            with torch.no_grad():
                now = _entries(gradient)
                kept = (now != 0).any()
                if self._same is None or self._kept is None:
                    both = now.isnan() & self._before.isnan()
                    self._same = ((now == self._before) | both).all()
                    self._kept = (self._before != 0).any() & kept
                else:
                    self._kept = self._kept & kept
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's backward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    def verdict(self) -> Tensor | float:
        """Return 1 if the gradient of the step before was still there, 0 if it was reset, NaN if that can't be told."""
        if self._reset:
            return 0.0
        if self._same is None or self._kept is None:
            return math.nan
        unknown = ((self._before == 0).all() | ~self._same) & self._kept | (self._before == 0).all()
        return torch.where(unknown, math.nan, self._kept.float())


class GradientResets:
    """Looks, over one step, at what becomes of the gradients of the step before.

    A gradient that is None or zero once in the step, when new ones are about to be added, was reset: another
    optimizer's backward pass may well have added to it before, as in the training of adversarial networks.

    Args:
        optimizer: The optimizer whose parameters are looked at: its first, middle and last one with a gradient.
        fail: Takes an exception of our own code.
    """

    def __init__(self, optimizer: Optimizer, fail: Callable[[Exception], None]) -> None:
        self.seconds = 0.0
        """Time taken since it was last set to zero."""
        self._optimizer, self._fail = optimizer, fail
        self._marks: list[_Mark] = []
        # A backward pass in a compiled function has what it calls compiled, too.
        self._see: Callable[[_Mark, Any], None] = torch.compiler.disable(_Mark.see)  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Mark the gradients that a step has just left; they may still be reset."""
        self.end()
        graded = [p for group in self._optimizer.param_groups for p in group["params"] if _usable(p)]
        places = {0, len(graded) // 2, len(graded) - 1} if graded else set[int]()
        self._marks = [_Mark(graded[place], graded[place].grad, self._see, self._fail) for place in sorted(places)]

    def end(self) -> None:
        """Take the hooks away and drop what was seen."""
        self.stop()
        self._marks = []

    def stop(self) -> None:
        """Take the hooks away; what was seen can still be asked for."""
        for mark in self._marks:
            mark.remove()
            self.seconds += mark.seconds
            mark.seconds = 0.0

    def verdicts(self) -> list[Tensor | float]:
        """Return for each marked gradient 1 if it was not reset, 0 if it was, NaN if that can't be told."""
        return [mark.verdict() for mark in self._marks]


def _usable(parameter: Any) -> bool:
    gradient = parameter.grad
    plain = type(gradient) is Tensor and gradient.layout is torch.strided and not gradient.is_complex()
    return plain and parameter.requires_grad and parameter.is_leaf and gradient.numel() > 0


def _entries(gradient: Tensor) -> Tensor:
    flat = gradient.detach().reshape(-1)
    return flat[:: math.ceil(flat.numel() / _ENTRIES)]
