"""Looks for values that are not finite in the inputs of a training whose loss is no longer finite.

Few steps are sampled, and a row that lacks a value may be in none of them. Once the loss is lost there is nothing else
to be seen, and the rows come again with the next epoch: until then each batch is looked through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook
from autotrainer.backends.pytorch.runtime.tensors import first_tensor

__all__ = ["NonfiniteInputs"]

_MOST, _LEAST = 2, 100
"""Batches that are looked through: twice as many as there were steps until then, since what poisoned the weights was
among those, and this many more."""


class NonfiniteInputs:
    """Looks once through the batches that follow the first loss that is not finite.

    Args:
        model: The model, not compiled.
        fail: Takes an exception of our own code.
    """

    def __init__(self, model: nn.Module, fail: Callable[[Exception], None]) -> None:
        self.seconds = 0.0
        """Time taken since it was last set to zero."""
        self._model, self._fail = model, fail
        self._handle: HookHandle | None = None
        self._wanted = 0
        self._seen = 0
        self._bad: Tensor | None = None  # on the device: to read it would wait for that

    def begin(self, step: int) -> None:
        """Look through the batches to come, unless that has been done.

        Args:
            step: Steps done.
        """
        if not self._wanted:
            self._wanted = _MOST * step + _LEAST
            self._handle = add_hook(self._model, self._see, before=True)

    def told(self) -> Mapping[str, float]:
        """Return what was found as `autotrainer.records.facts.FACTS`, once; it waits for the device."""
        if self._bad is None:
            return {}
        found = float(self._bad)
        if found or self._seen >= self._wanted:
            self.end()
            self._bad = None
        return {"batches_looked_through": float(self._seen), "nonfinite_batches": found} if found else {}

    def end(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None

    def _see(self, module: nn.Module, args: Any) -> None:
        if is_compiling() or module is not self._model or not torch.is_grad_enabled() or self._seen >= self._wanted:
            return
        started = perf_counter()
        try:
            self._seen += 1
            inputs = first_tensor(args, floating=True)
            if inputs is not None:
                with torch.no_grad():
                    bad = inputs.isfinite().all().logical_not().long()
                    self._bad = bad if self._bad is None else self._bad + bad
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started
