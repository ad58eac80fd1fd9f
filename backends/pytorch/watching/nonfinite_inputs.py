"""Checks the inputs of a training for non-finite values once its loss is no longer finite.

Few steps are sampled, and a row with a missing value may be in none of them. Once the loss is lost there is nothing
else to measure, and the rows come again in the next epoch: until then each batch is checked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import sparse_values

__all__ = ["NonfiniteInputs"]

_STEP_FACTOR, _EXTRA = 2, 100
"""Batches to check: twice as many as there were steps until then (the cause was in one of those), plus some more."""


class NonfiniteInputs:
    """Checks the batches that follow the first non-finite loss, once.

    Args:
        model: The model, not compiled.
        fail: Takes an exception of our own code.
        stopwatch: Measures the time spent in the hook.
    """

    def __init__(self, model: nn.Module, fail: Callable[[Exception], None], stopwatch: Stopwatch | None = None) -> None:
        self.stopwatch = stopwatch or Stopwatch()
        self._model, self._report_failure = model, fail
        self._handle: HookHandle | None = None
        self._planned = 0
        self._checked = 0
        self._nonfinite: Tensor | None = None  # on the device: reading it synchronizes

    def begin(self, step: int) -> None:
        """Start to check the next batches, unless that has been done.

        Args:
            step: Number of steps done.
        """
        if not self._planned:
            self._planned = _STEP_FACTOR * step + _EXTRA
            self._handle = add_hook(self._model, self._check, before=True)

    def facts(self) -> Mapping[str, float]:
        """Return the result as `autotrainer.records.facts.FACTS`, once; synchronizes with the device."""
        if self._nonfinite is None:
            return {}
        batches = float(self._nonfinite)
        if batches or self._checked >= self._planned:
            self.end()
            self._nonfinite = None
        return {"batches_looked_through": float(self._checked), "nonfinite_batches": batches} if batches else {}

    def _fail(self, error: Exception) -> None:
        self.end()
        self._report_failure(error)

    def end(self) -> None:
        """Stop checking."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _check(self, module: nn.Module, args: Any) -> None:
        if is_transformed() or module is not self._model or self._checked >= self._planned:
            return
        with self.stopwatch:
            try:
                with observation() as with_gradients:
                    if not with_gradients:
                        return
                    self._checked += 1
                    inputs = first_tensor(args, floating=True)
                    if inputs is not None:
                        values = sparse_values(inputs) if inputs.is_sparse else inputs
                        nonfinite = values.isfinite().all().logical_not().long()
                        self._nonfinite = nonfinite if self._nonfinite is None else self._nonfinite + nonfinite
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)
