"""Reads the scale of a `GradScaler` that nobody has told of: it is met where it calls the optimizer's step."""

from __future__ import annotations

import gc
import math
import sys
from types import FrameType
from weakref import ref

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

__all__ = ["LossScale"]

_FILE = GradScaler.step.__code__.co_filename
_DEPTH = 32
"""Calls between the scaler and a hook on the optimizer's step, at most: wrappers of both, and our own."""


class LossScale:
    """The scale of the losses of a training.

    A step whose scaled gradients overflow is given up: the optimizer is not called, no hook runs, and the scale is
    halved. So the steps given up show in the scale of the next step that is taken, or else in `told`.
    """

    def __init__(self) -> None:
        self._scaler: ref[GradScaler] | None = None
        self._latest: Tensor | None = None
        self._told = math.nan

    def read(self) -> Tensor | float:
        """Return the scale of the step that is being taken, on its device; NaN where it is not taken by a scaler."""
        scaler = self._known() or _caller()
        scale = getattr(scaler, "_scale", None)  # made by its first loss
        if scaler is None or not isinstance(scale, Tensor):  # none, or one that is switched off
            return math.nan
        self._scaler = self._scaler or ref(scaler)
        self._latest = scale.detach().clone()
        return self._latest.reshape(())

    def told(self, stepped: bool) -> dict[str, float]:
        """Return the present scale as a fact, where steps were given up since it was last read; this may wait.

        Args:
            stepped: Whether a step was ever taken. Otherwise the only scaler of the process is taken for that of this
                training.
        """
        scaler = self._known() if stepped else self._known() or _only_one()
        scale = getattr(scaler, "_scale", None)
        if scaler is None or not isinstance(scale, Tensor):
            return {}
        now = float(scale)
        latest = math.inf if self._latest is None else float(self._latest)
        if (math.isnan(self._told) and now >= latest) or now == self._told:
            return {}
        self._scaler, self._told = ref(scaler), now
        return {"loss_scale": now}

    def _known(self) -> GradScaler | None:
        return None if self._scaler is None else self._scaler()


def _caller() -> GradScaler | None:
    """Return the scaler that has called the optimizer's step, out of a hook of that."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEPTH):
        frame = None if frame is None else frame.f_back
        if frame is None:
            return None
        if frame.f_code.co_filename == _FILE:
            own = frame.f_locals.get("self")
            return own if isinstance(own, GradScaler) else None
    return None


def _only_one() -> GradScaler | None:
    """Return the scaler in use, if there is just one."""
    scalers = (each for each in gc.get_objects() if issubclass(type(each), GradScaler))
    found = [each for each in scalers if getattr(each, "_scale", None) is not None]
    return found[0] if len(found) == 1 else None
