"""Objects that a repair has replaced: whoever still uses them is told so."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn
from torch.optim import Optimizer

from autotrainer.errors import StateError

__all__ = ["Retired"]


class Retired:
    """A model and an optimizer that raise `StateError` when they are used, until they are released.

    Args:
        model: The model.
        optimizer: The optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        def stepped(*_: Any) -> NoReturn:
            raise StateError(
                "this optimizer was replaced by a repair: step loop.optimizer, which is always the one in use"
            )

        def called(*_: Any) -> NoReturn:
            raise StateError("this model was replaced by a repair: call loop.model, which is always the one in use")

        self._handles = [optimizer.register_step_pre_hook(stepped), model.register_forward_pre_hook(called)]

    def release(self) -> None:
        """Let them be used again."""
        for handle in self._handles:
            handle.remove()
