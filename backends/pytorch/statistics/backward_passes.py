"""The backward passes of one step: how many there are, how their losses are scaled, and what terms these have."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.optim import Optimizer
from torch.utils.hooks import unserializable_hook

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.losses.loss_terms import LossTerms, loss_terms, terms_of_calls
from autotrainer.backends.pytorch.runtime.backward_signal import add_backward_listener, remove_backward_listener
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.backends.pytorch.runtime.torch_private import is_flattened
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.statistics.stats import strided_entries

__all__ = ["BackwardPasses"]

_ENTRIES = 64
"""Evenly strided entries that are read of a gradient."""

_MOST_PASSES = 64
"""Backward passes that are followed in a step, at most."""


@dataclass(slots=True, weakref_slot=True)
class _Call:
    """An observed call of the loss: its name and value, and the gradient that has arrived there."""

    name: str
    value: Tensor
    gradient: Tensor | None = None


class BackwardPasses:
    """Follows the gradient of one parameter through the backward passes of a step.

    The last parameter is followed, which nearly every backward pass reaches. A hook on the node that accumulates into
    its gradient runs in no other backward pass: neither in `torch.autograd.grad` nor in that of another model.

    The factor on the loss is the gradient that arrives at the value that the loss module has returned. Without a
    module, it is read from the graph where the backward pass starts, which takes a patch of `torch.autograd.backward`.

    Args:
        optimizer: The optimizer.
        fail: Takes an exception of our own code.
        stopwatch: Measures the time spent here.
    """

    def __init__(self, optimizer: Optimizer, fail: Callable[[Exception], None], stopwatch: Stopwatch) -> None:
        self._optimizer, self._fail, self._stopwatch = WeakSequence([optimizer]), fail, stopwatch
        self._parameter: Tensor | None = None
        self._node: Any = None
        self._handles: list[Any] = []
        self._calls: list[_Call] = []
        self._unreadable: set[int] = set()  # parameters with gradients that are not followed
        self.patches = False
        """Whether `torch.autograd.backward` is patched in the steps to come, as no loss module is observed."""
        self._clear()

    def _clear(self) -> None:
        self._started: LossTerms | None = None  # of the backward pass that goes on
        self._resets: list[Tensor | bool] = []  # whether the gradient was zero or None before each pass
        self._factors: list[Tensor | float] = []
        self._passed: list[_Call] = []  # calls whose losses the latest pass started from
        self._left: Tensor | None = None  # entries of the gradient after the latest pass
        self._ratio: Tensor | None = None
        self.terms: dict[str, Tensor] = {}
        """Terms of the loss of the latest backward pass, by name: scalar tensors."""

    def begin(self) -> None:
        """Listen in the step that begins."""
        self.end()
        self._clear()
        trainable = [p for group in self._optimizer.first.param_groups for p in group["params"] if _is_plain(p)]
        trainable = [p for p in trainable if id(p) not in self._unreadable]
        graded = [p for p in trainable if p.grad is not None] or trainable
        if not graded:
            return
        self._parameter = graded[-1]
        self._node = get_gradient_edge(graded[-1]).node  # the hooks live as long as this
        before, after = (functools.partial(hook, weakref.ref(self)) for hook in _HOOKS)
        self._handles = [self._node.register_prehook(before), self._node.register_hook(after)]
        if self.patches:
            add_backward_listener(self)

    def end(self) -> None:
        """Stop listening, and keep the results."""
        for handle in self._handles:
            handle.remove()
        remove_backward_listener(self)
        self._handles, self._parameter, self._node, self._started = [], None, None, None
        self._calls, self._passed = [], []

    def note_call(self, name: str, loss: Tensor) -> None:
        """Note the value of a loss that a call has returned: it may become a term of the loss of the step."""
        if not self._handles or loss.grad_fn is None or loss.ndim or len(self._calls) >= _MOST_PASSES:
            return
        call = _Call(name, loss.detach())
        self._calls.append(call)

        keep = functools.partial(_keep_gradient, weakref.ref(call))
        hook = unserializable_hook(keep)  # type: ignore[no-untyped-call]  # else saving the loss warns
        self._handles.append(loss.register_hook(hook))  # type: ignore[no-untyped-call]

    def backward_started(self, tensors: Any) -> None:
        """Take the loss apart; see `BackwardListener`."""
        self._started = None
        loss = tensors if isinstance(tensors, Tensor) else None
        if loss is None or loss.ndim or loss.grad_fn is None or is_transformed():
            return
        if len(self._resets) >= _MOST_PASSES:
            return
        with self._stopwatch:
            try:
                with observation():
                    self._started = loss_terms(loss)
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._fail(error)

    def _before(self, added: Any) -> None:
        """Note whether the gradient was reset: a backward pass is about to add to it."""
        if len(self._resets) >= _MOST_PASSES or self._parameter is None:
            return
        with self._stopwatch:
            try:
                with observation():
                    gradient = self._parameter.grad
                    if gradient is not None and not _is_strided(gradient):
                        self._leave()
                        return
                    reset = True if gradient is None else (_entries(gradient) == 0).all()
                    if gradient is not None and self._left is not None:  # of unused rows, it is zero all the time
                        reset = reset & (self._left != 0).any()
                    self._resets.append(reset)
                    started, self._started = self._started, None
                    arrived = [call for call in self._calls if call.gradient is not None]
                    if started is not None:
                        self._factors.append(started.factor)
                        self.terms = dict(started.terms)
                    elif len(arrived) == 1 and arrived[0].gradient is not None:
                        self._factors.append(arrived[0].gradient)
                    else:
                        self._factors.append(math.nan)
                    self._passed, self._calls = arrived, [call for call in self._calls if call.gradient is None]
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's backward pass
                self._fail(error)

    def _after(self, *values: Any) -> None:
        """Copy entries of the gradient that a backward pass has left."""
        if self._parameter is None or self._parameter.grad is None:
            return
        if not _is_strided(self._parameter.grad):
            self._leave()
            return
        with self._stopwatch:
            try:
                with observation():
                    self._left = _entries(self._parameter.grad).clone()
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's backward pass
                self._fail(error)

    def _leave(self) -> None:
        """Follow another parameter from the next step on, as the gradient of this one is sparse, or no plain tensor."""
        self._unreadable.add(id(self._parameter))
        self._clear()
        self._parameter = None

    def before_step(self, optimizer: Optimizer) -> None:
        """Compare the gradient that the optimizer takes with that of the backward passes."""
        if self._passed and not self.terms:
            self.terms = dict(terms_of_calls([(call.name, call.value, call.gradient) for call in self._passed]))
        self._passed = []
        gradient = None if self._parameter is None else self._parameter.grad
        if self._left is not None and gradient is None:  # reset since
            self._ratio = torch.zeros(())
        if self._left is None or gradient is None or not _is_plain(self._parameter):
            return
        now, left = _entries(gradient).float(), self._left.float()
        if now.shape == left.shape and now.device == left.device:
            scale = getattr(optimizer, "grad_scale", None)
            scaled = left * scale.to(left.device) if isinstance(scale, Tensor) else left
            self._ratio = (now * left).sum() / (scaled * left).sum()

    def scalars(self) -> list[Tensor]:
        """Return all results as scalars, for one transfer to the host."""
        numbers = [_scalar(reset) for reset in self._resets] + [_scalar(factor) for factor in self._factors]
        return [*numbers, _scalar(math.nan if self._ratio is None else self._ratio), *map(_scalar, self.terms.values())]

    def values(self, numbers: Sequence[float], loss_scale: float) -> tuple[dict[str, float], dict[str, float]]:
        """Return `STEP_COLUMNS` and the terms of the loss.

        Args:
            numbers: What `scalars` returned, on the host.
            loss_scale: Scale of the loss that a `GradScaler` removes again; NaN if there is none.
        """
        count = len(self._resets)
        resets, factors, rest = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
        first = max((number for number, reset in enumerate(resets) if reset), default=0)
        scale = loss_scale if loss_scale > 0 else 1.0
        factor = sum(factors[first:]) / max(1, len(factors[first:])) if factors else math.nan
        terms = {
            name: value if math.isfinite(value) else math.inf for name, value in zip(self.terms, rest[1:], strict=True)
        }
        columns = {
            "backward_passes": float(count - first) if 0 < count < _MOST_PASSES else math.nan,
            "discarded_passes": float(first) if count else math.nan,
            "loss_factor": factor / scale,
            "gradient_factor": rest[0] * scale,
        }
        return columns, terms


def _before_accumulation(passes: weakref.ref[BackwardPasses], added: Any) -> None:
    followed = passes()
    if followed is not None:
        followed._before(added)


def _after_accumulation(passes: weakref.ref[BackwardPasses], *values: Any) -> None:
    followed = passes()
    if followed is not None:
        followed._after(*values)


def _keep_gradient(reference: weakref.ref[_Call], gradient: Tensor) -> None:
    call = reference()
    if call is not None:
        with observation():
            call.gradient = gradient.detach()


# A backward pass in a compiled function would have what it calls compiled, too. The graph holds its hooks where the
# garbage collector doesn't look, so these hold nothing but weak references.
_disable: Callable[..., Callable[..., None]] = torch.compiler.disable
_HOOKS = _disable(_before_accumulation), _disable(_after_accumulation)


def _is_plain(parameter: Any) -> bool:
    gradient = parameter.grad
    plain = type(parameter) in (nn.Parameter, Tensor) and (gradient is None or _is_strided(gradient))
    plain &= not is_flattened(parameter)
    usable = parameter.requires_grad and parameter.is_leaf and parameter.numel() > 0 and parameter.device.type != "meta"
    return bool(plain and usable and not parameter.is_complex())


def _is_strided(gradient: Tensor) -> bool:
    return type(gradient) is Tensor and gradient.layout is torch.strided


def _entries(gradient: Tensor) -> Tensor:
    return strided_entries([gradient.detach()], [_ENTRIES])[0]


def _scalar(value: Tensor | float) -> Tensor:
    return value.detach().reshape(()).float() if isinstance(value, Tensor) else torch.tensor(float(value))
