"""Reads the scale of a `GradScaler` that is not passed to `watch`: it is found where it calls the optimizer's step."""

from __future__ import annotations

import gc
import math
import sys
from types import FrameType
from weakref import ref

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from autotrainer.backends.pytorch.runtime.frames import frame_variables
from autotrainer.backends.pytorch.runtime.torch_private import gradient_scale

__all__ = ["LossScale"]

_FILE = GradScaler.step.__code__.co_filename
_MOST_FRAMES = 32
"""Stack frames between the scaler and a hook on the optimizer's step, at most: wrappers of both, and our own."""


class LossScale:
    """The scale of the losses of a training.

    A step whose scaled gradients overflow is skipped: the optimizer is not called, no hook runs, and the scale is
    halved. So skipped steps show in the scale of the next step that is taken, or else in `facts`.
    """

    def __init__(self) -> None:
        self._scaler: ref[GradScaler] | None = None
        self._latest: Tensor | None = None
        self._reported = math.nan

    def read(self) -> Tensor | float:
        """Return the scale of the current step, on its device; NaN if no scaler takes the step."""
        scaler = self._current_scaler() or _calling_scaler()
        scale = gradient_scale(scaler)
        if scaler is None or scale is None:
            return math.nan
        self._scaler = self._scaler or ref(scaler)
        self._latest = scale.detach().clone()
        return self._latest.reshape(())

    def facts(self, stepped: bool) -> dict[str, float]:
        """Return the current scale as a fact if steps were skipped since it was last read; may synchronize.

        Args:
            stepped: Whether a step was ever taken. If not, the only scaler of the process is assumed to be that of
                this training.
        """
        scaler = self._current_scaler() if stepped else self._current_scaler() or _only_scaler()
        scale = gradient_scale(scaler)
        if scaler is None or scale is None:
            return {}
        now = float(scale)
        latest = math.inf if self._latest is None else float(self._latest)
        if (math.isnan(self._reported) and now >= latest) or now == self._reported:
            return {}
        self._scaler, self._reported = ref(scaler), now
        return {"loss_scale": now}

    def _current_scaler(self) -> GradScaler | None:
        return None if self._scaler is None else self._scaler()


def _calling_scaler() -> GradScaler | None:
    """Return the scaler that has called the optimizer's step whose hook runs, or None."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        frame = None if frame is None else frame.f_back
        if frame is None:
            return None
        if frame.f_code.co_filename == _FILE:
            owner = frame_variables(frame).get("self")
            return owner if isinstance(owner, GradScaler) else None
    return None


def _only_scaler() -> GradScaler | None:
    """Return the scaler in use, if there is exactly one."""
    scalers = (obj for obj in gc.get_objects() if issubclass(type(obj), GradScaler))
    in_use = [obj for obj in scalers if gradient_scale(obj) is not None]
    return in_use[0] if len(in_use) == 1 else None
