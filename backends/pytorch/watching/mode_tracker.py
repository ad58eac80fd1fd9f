"""Tracks the mode in which a model is run: dropout and batch normalization differ between training and evaluation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.model.dropout import dropout_rate
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook
from autotrainer.backends.pytorch.runtime.observation import observation
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import (
    BatchNorm,
    has_transforms,
    view_base,
    write_version,
)

__all__ = ["ModeTracker", "mode"]

_REPEATS = 3
"""Consecutive passes over the same inputs that count as repeated on purpose: a loss and a score may take one each."""

_PATIENCE = 2
"""Steps to wait for an evaluation."""

_SEARCH = 2_000
"""Passes with gradients within which the first evaluation is searched for. A hook on the model takes 5 µs of each."""

_SAME_INPUTS = 3
"""Sampled steps that must all get one tensor to conclude that every step does."""


def _normalizes_by_batch(module: nn.Module) -> bool:
    return isinstance(module, BatchNorm) and module.track_running_stats


def _sensitive_modules(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return the modules that behave differently in training mode, each with the module whose parameters train with it.

    That is batch normalization itself if it has weights, otherwise the parent module.
    """
    modules = list(model.modules())
    sensitive = [module for module in modules if _normalizes_by_batch(module) or dropout_rate(module) > 0]
    parent_of = {id(child): module for module in modules for child in module.children()} if sensitive else {}
    weighted = [next(module.parameters(recurse=False), None) is not None for module in sensitive]
    pairs = zip(sensitive, weighted, strict=True)
    return [(module, module if has_weights else parent_of.get(id(module), module)) for module, has_weights in pairs]


def mode(model: nn.Module, sensitive: list[tuple[nn.Module, nn.Module]]) -> float:
    """Return 1 for training mode, 0 for evaluation mode; NaN if it makes no difference, or may be intended.

    A layer in another mode than the model was put into it on purpose, and a frozen part of the model may well be in
    evaluation mode while the rest trains: neither counts.
    """
    if model.training:
        return 1.0 if any(module.training for module, _ in sensitive) else math.nan
    for module, part in sensitive:
        if not module.training and any(p.requires_grad for p in part.parameters()):
            return 0.0
    return math.nan


@dataclass(frozen=True, slots=True)
class _InputIdentity:
    """Identifies the inputs of a pass as long as they exist: their memory may be reused for another batch later."""

    owners: tuple[weakref.ref[Tensor], ...]
    locations: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, args: Any) -> _InputIdentity | None:
        """Return the identity of the arguments of a pass; None without a tensor."""
        parts = args if isinstance(args, tuple) else (args,)
        tensors = [tensor for tensor in map(first_tensor, parts) if tensor is not None]
        if not tensors or any(tensor.layout is not torch.strided for tensor in tensors):
            return None
        locations = tuple((t.data_ptr(), t.shape, t.stride(), write_version(t)) for t in tensors)
        return cls(tuple(weakref.ref(view_base(tensor)) for tensor in tensors), locations)

    def same(self, other: _InputIdentity | None) -> bool:
        """Return whether inputs seen later hold the same values."""
        exist = all(owner() is not None for owner in self.owners)
        return other is not None and exist and self.locations == other.locations


class ModeTracker:
    """Tracks the modes of single forward passes.

    The model has a hook while a step is sampled, and while an evaluation is expected: until its second batch, or until
    it has not come. Several passes in a row over the same inputs average over dropout masks on purpose (Gal and
    Ghahramani 2016): their mode does not count.

    Args:
        model: The model, not compiled.
        step: Returns the number of steps done.
        fail: Takes an exception of our own code.
        stopwatch: Measures the time spent in the hook.
        on_evaluation: Called at a pass without gradients; None to track modes alone.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Callable[[], int],
        fail: Callable[[Exception], None],
        stopwatch: Stopwatch | None = None,
        on_evaluation: Callable[[], None] | None = None,
    ) -> None:
        self.training = math.nan
        """Mode of the latest pass with gradients."""
        self.stopwatch = stopwatch or Stopwatch()
        self.same_inputs = False
        """Whether all sampled steps have got the same tensor."""
        self._model, self._step, self._report_failure = model, step, fail
        self._on_evaluation = on_evaluation
        self._failed = False
        self._searches = self._left = _SEARCH if on_evaluation is not None else 0
        self._training_inputs: tuple[int, _InputIdentity | None] = (0, None)  # sampled steps, and what they all got
        self._sampled_step = -1
        self._sensitive_modules = _sensitive_modules(model)
        self._handle: HookHandle | None = None
        self._sampled = False
        self._expected = 0
        self._latest = (-1, math.nan)  # steps done before the latest pass without gradients, and its mode
        self._inputs: _InputIdentity | None = None  # of that pass
        self._repeats = 0  # consecutive passes over these inputs
        self._evaluation = math.nan

    def begin(self) -> None:
        """Track the passes of a sampled step."""
        self.training = math.nan
        self._sampled = True
        self._arm()

    def end(self) -> None:
        """Stop tracking passes."""
        self._sampled = False
        if not self._searches:
            self._disarm()

    def stop(self) -> None:
        """Remove the hook for good."""
        self._searches = self._left = 0
        self.end()

    def expect_evaluation(self, at: int) -> None:
        """Track the first passes of the next evaluation.

        Args:
            at: Number of steps done by then.
        """
        self._expected, self._inputs = at, None
        self._arm()

    def note_evaluation_loss(self) -> None:
        """Note that a loss was computed without gradients: that of the latest pass, if it was tracked."""
        mode = self._after_last_step()
        if not math.isnan(mode):
            self._evaluation = mode
        elif math.isnan(self._evaluation):
            self.expect_evaluation(self._step())  # of the next batch

    def end_epoch(self, held_out_reported: bool) -> float:
        """Return the mode of the evaluation in the epoch that ends now; NaN if none was tracked.

        Args:
            held_out_reported: Whether the user reports results on held-out data: then a pass without gradients after
                the last step belongs to an evaluation, too.
        """
        evaluated = self._after_last_step() if held_out_reported and math.isnan(self._evaluation) else self._evaluation
        self._evaluation = math.nan
        if not (self._sampled or self._searches):
            self._disarm()
        return evaluated

    def _after_last_step(self) -> float:
        at, mode = self._latest
        return mode if at == self._step() else math.nan

    def _fail(self, error: Exception) -> None:
        """Track no pass any more."""
        self._failed, self.training, self._evaluation, self.same_inputs = True, math.nan, math.nan, False
        self.stop()
        self._report_failure(error)

    def _arm(self) -> None:
        if self._handle is None and not self._failed and (self._sensitive_modules or self._on_evaluation is not None):
            self._handle = add_hook(self._model, self._record_pass, before=True)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _record_pass(self, module: nn.Module, args: Any) -> None:
        if is_compiling() or module is not self._model:
            return
        if self._searches and not self._sampled and torch.is_grad_enabled():
            self._searches -= 1  # every step passes here for a while: not even its time is measured
            if not self._searches:
                self._disarm()
            return
        if has_transforms():
            return
        with self.stopwatch:
            try:
                with observation() as with_gradients:
                    self._record_mode(args, with_gradients)
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)

    def _record_mode(self, args: Any, with_gradients: bool) -> None:
        now, done = mode(self._model, self._sensitive_modules), self._step()
        if self._sampled and with_gradients:
            self._compare_inputs(args)
        if not with_gradients and self._on_evaluation is not None:
            self._left, self._searches = self._searches or self._left, 0
            self._on_evaluation()
        if not with_gradients:
            before, self._inputs = self._inputs, _InputIdentity.of(args)
            again = before is not None and before.same(self._inputs)
            self._repeats = self._repeats + 1 if again else 1
            repeated = self._repeats >= _REPEATS
            self._latest = done, math.nan if repeated else now
            over = done >= self._expected and (repeated or (before is not None and not again))
        else:
            self.training, self._latest, self._inputs = now, (-1, math.nan), None
            over = done > self._expected + _PATIENCE
        if over and with_gradients and self._left:  # it has not come: search for the next one
            self._searches, self._left = self._left, 0
        elif over and not self._sampled:
            self._disarm()

    def _compare_inputs(self, args: Any) -> None:
        """Compare the inputs of a sampled step with those of all sampled steps before."""
        inputs, (count, before) = _InputIdentity.of(args), self._training_inputs
        if count and (before is None or not before.same(inputs)):
            self._training_inputs, self.same_inputs = (count, None), False
        elif self._step() != self._sampled_step:
            self._sampled_step = self._step()
            self._training_inputs = count + 1, inputs if before is None else before
            self.same_inputs = count + 1 >= _SAME_INPUTS
