"""Checks the backward passes of the user's own functions in a watched training, once.

The graph of a first sampled step shows the functions, a second one their arguments; then copies of these are checked.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.probing.gradient_check import MOST_VALUES, backward_error
from autotrainer.backends.pytorch.runtime.backward_signal import add_backward_listener, remove_backward_listener
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.output import logger

__all__ = ["CustomFunctions"]

_MOST_NODES = 20_000
_MOST_FUNCTIONS = 8
_SETTINGS = int | float | str | None | torch.dtype | torch.device
_INSTALLED = frozenset({"site-packages", "dist-packages"})


class CustomFunctions:
    """Finds the user's subclasses of `torch.autograd.Function`, and compares their gradients with differences.

    Args:
        report: Called with the facts and with the names of functions whose backward pass is wrong, if there are any.
        guard: Takes exceptions, of the user's functions too.
    """

    def __init__(self, report: Callable[[Mapping[str, float], tuple[str, ...]], None], guard: StatisticGuard) -> None:
        self._report, self._guard = report, guard
        self._functions: set[Any] = set()
        self._calls: dict[Any, tuple[tuple[Any, ...], tuple[bool, ...]]] = {}
        self._patched: dict[Any, Any] = {}
        self._steps = 0

    def begin(self) -> None:
        """Look for functions in the sampled step that begins, or record their arguments."""
        self._steps += 1
        if self._steps == 1:
            add_backward_listener(self)
        for function in self._functions if self._steps == 2 else ():
            self._patched[function] = vars(function).get("forward")
            function.forward = staticmethod(self._recording(function, function.forward))

    def end(self) -> None:
        """Stop, and check what was recorded."""
        remove_backward_listener(self)
        for function, forward in self._patched.items():
            if forward is None:
                del function.forward
            else:
                function.forward = forward
        self._patched = {}
        calls, self._calls = self._calls, {}
        if calls:
            self._guard.measure("custom functions", self._check, calls)

    def backward_started(self, tensors: Any) -> None:
        """Look for functions in the graph; see `BackwardListener`."""
        loss = tensors if isinstance(tensors, Tensor) else None
        if loss is not None and loss.grad_fn is not None and not is_transformed():
            self._guard.measure("custom functions", self._find, loss.grad_fn)

    def _find(self, root: Any) -> None:
        waiting, visited = [root], {root}
        while waiting and len(visited) < _MOST_NODES:
            node = waiting.pop()
            function = getattr(node, "_forward_cls", None)
            if function is not None and _is_of_user(function) and len(self._functions) < _MOST_FUNCTIONS:
                self._functions.add(function)
            unvisited = {child for child, _ in node.next_functions if child is not None} - visited
            visited |= unvisited
            waiting.extend(unvisited)

    def _recording(self, function: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        calls, guard = self._calls, self._guard
        context = 0 if function.setup_context is not Function.setup_context else 1

        def copy(arguments: tuple[Any, ...]) -> None:
            if not all(map(_is_plain, arguments)):
                return  # a module may have buffers that another call would change
            if sum(a.numel() for a in arguments if isinstance(a, Tensor)) > MOST_VALUES:
                return
            with observation():
                copies = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in arguments)
            calls[function] = copies, tuple(isinstance(a, Tensor) and a.requires_grad for a in arguments)

        @functools.wraps(original)
        def forward(*arguments: Any) -> Any:
            if function not in calls and not (is_compiling() or is_transformed()):
                guard.measure("custom functions", copy, arguments[context:])
            return original(*arguments)

        return forward

    def _check(self, calls: Mapping[Any, tuple[tuple[Any, ...], tuple[bool, ...]]]) -> None:
        wrong = {}
        with preserve_random_state(), observation():
            for function, call in calls.items():
                try:
                    error = backward_error(function, *call)
                except Exception as refusal:  # noqa: BLE001 - the user's function may not take double precision
                    logger.debug("the backward pass of %s is not checked: %s", function.__qualname__, refusal)
                    continue
                if error is not None:
                    wrong[function.__qualname__.rpartition(".")[2]] = error
        if wrong:
            worst = max(wrong.values(), key=lambda each: each.error)
            facts = {"backward_error": worst.error}
            if not math.isnan(worst.ratio):
                facts["backward_ratio"] = worst.ratio
            self._report(facts, tuple(sorted(wrong, key=lambda name: -wrong[name].error)))


def _is_plain(argument: Any) -> bool:
    """Return whether an argument is a tensor or a setting."""
    if isinstance(argument, tuple | list):
        return all(isinstance(each, _SETTINGS) for each in argument)
    return isinstance(argument, Tensor | _SETTINGS)


def _is_of_user(function: Any) -> bool:
    """Return whether a function belongs to the user's program, rather than to an installed package."""
    name = str(function.__module__)
    file = getattr(sys.modules.get(name), "__file__", None)
    return name.partition(".")[0] not in ("torch", "autotrainer") and _INSTALLED.isdisjoint(Path(file or "").parts)
