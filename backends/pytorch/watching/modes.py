"""Sees in which mode a model is run: dropout and batch normalization do not do the same in training and evaluation."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook

__all__ = ["Modes", "dropout_rate", "mode"]

_DROPS = frozenset({"DropPath", "StochasticDepth"})
"""Modules of other libraries that leave out whole paths at random, by the name of their class."""

_REPEATED = 3
"""Passes over the same inputs in a row that are no accident: a loss and a score may take one each."""

_PATIENCE = 2
"""Steps for which an evaluation is waited for."""


def dropout_rate(module: nn.Module) -> float:
    """Return the share of values that a module by itself leaves out at random in training mode; 0 for none."""
    if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in _DROPS:
        rate = getattr(module, "p", getattr(module, "drop_prob", 0.0))
    elif isinstance(module, nn.MultiheadAttention) or (isinstance(module, nn.RNNBase) and module.num_layers > 1):
        rate = module.dropout
    else:
        return 0.0
    return float(rate) if isinstance(rate, int | float) else 0.0


def _normalizes_by_batch(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats


def _sensitive(model: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return the modules that do something else in training mode, each with what tells whether its part trains.

    That is batch normalization itself where it has weights, else the module around it.
    """
    around = {id(child): module for module in model.modules() for child in module.children()}
    found = []
    for module in model.modules():
        if _normalizes_by_batch(module) or dropout_rate(module) > 0:
            weighted = next(module.parameters(recurse=False), None) is not None
            found.append((module, module if weighted else around.get(id(module), module)))
    return found


def mode(model: nn.Module, sensitive: list[tuple[nn.Module, nn.Module]]) -> float:
    """Return 1 for training mode, 0 for evaluation mode; NaN where it makes no difference, or not one to judge.

    A layer in another mode than the model was put into it on purpose, and one in a part of the model that is frozen
    may well be in evaluation mode while the rest trains: neither counts.
    """
    if model.training:
        return 1.0 if any(module.training for module, _ in sensitive) else math.nan
    for module, part in sensitive:
        if not module.training and any(p.requires_grad for p in part.parameters()):
            return 0.0
    return math.nan


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a pass was given, known again only as long as it exists: its memory may serve for another batch then."""

    owner: weakref.ref[Tensor]
    where: tuple[Any, ...]

    @classmethod
    def of(cls, args: Any) -> _Inputs | None:
        """Return that of the arguments of a pass; None without a tensor."""
        given = first_tensor(args)
        if given is None:
            return None
        whole = given._base if given._is_view() and given._base is not None else given
        version = 0 if given.is_inference() else given._version  # of what was written into it
        return cls(weakref.ref(whole), (given.data_ptr(), given.shape, given.stride(), version))

    def same(self, other: _Inputs | None) -> bool:
        """Whether the other one, seen later, is of the same values."""
        return other is not None and self.owner() is not None and self.where == other.where


class Modes:
    """Sees the modes of single forward passes.

    While a step is sampled the model has a hook. It also has one where an evaluation is expected: until it goes on to
    its second batch, or has not come. Several passes over the same inputs in a row are there to average over what is
    drawn at random in training mode (Gal and Ghahramani 2016): their mode is not one to judge.

    Args:
        model: The model, not compiled.
        step: Returns the number of steps done.
        fail: Takes an exception of our own code.
    """

    def __init__(self, model: nn.Module, step: Callable[[], int], fail: Callable[[Exception], None]) -> None:
        self.training = math.nan
        """Mode of the latest pass with gradients."""
        self.seconds = 0.0
        """Time taken since it was last set to zero."""
        self._model, self._step, self._fail = model, step, fail
        self._sensitive = _sensitive(model)
        self._handle: HookHandle | None = None
        self._sampled = False
        self._expected = 0
        self._latest = (-1, math.nan)  # steps done before the latest pass without gradients, and its mode
        self._inputs: _Inputs | None = None  # of that pass
        self._alike = 0  # passes in a row over these inputs
        self._evaluation = math.nan

    def begin(self) -> None:
        """See the passes of a sampled step."""
        self.training = math.nan
        self._sampled = True
        self._arm()

    def end(self) -> None:
        """See no more passes."""
        self._sampled = False
        self._disarm()

    def expect_evaluation(self, at: int) -> None:
        """See the first passes of the next evaluation.

        Args:
            at: How many steps will have been done then.
        """
        self._expected, self._inputs = at, None
        self._arm()

    def evaluated(self) -> None:
        """Take in that a loss was computed without gradients: that of the latest pass, if it was seen."""
        mode = self._after_last_step()
        if not math.isnan(mode):
            self._evaluation = mode
        elif math.isnan(self._evaluation):
            self.expect_evaluation(self._step())  # of the next batch

    def end_epoch(self, told: bool) -> float:
        """Return the mode of the evaluation in the epoch that ends now; NaN if none was seen.

        Args:
            told: Whether the user tells results on held-out data: then a pass without gradients after the last step
                belongs to an evaluation, too.
        """
        found = self._after_last_step() if told and math.isnan(self._evaluation) else self._evaluation
        self._evaluation = math.nan
        if not self._sampled:
            self._disarm()
        return found

    def _after_last_step(self) -> float:
        at, mode = self._latest
        return mode if at == self._step() else math.nan

    def _arm(self) -> None:
        if self._handle is None and self._sensitive:
            self._handle = add_hook(self._model, self._see, before=True)

    def _disarm(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _see(self, module: nn.Module, args: Any) -> None:
        if is_compiling() or module is not self._model:
            return
        started = perf_counter()
        try:
            now, done = mode(self._model, self._sensitive), self._step()
            if not torch.is_grad_enabled():
                before, self._inputs = self._inputs, _Inputs.of(args)
                again = before is not None and before.same(self._inputs)
                self._alike = self._alike + 1 if again else 1
                repeated = self._alike >= _REPEATED
                self._latest = done, math.nan if repeated else now
                over = done >= self._expected and (repeated or (before is not None and not again))
            else:
                self.training, self._latest, self._inputs = now, (-1, math.nan), None
                over = done > self._expected + _PATIENCE
            if over and not self._sampled:
                self._disarm()
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started
