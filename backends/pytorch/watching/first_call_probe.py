"""Probes a copy of a watched model with the inputs of its first call and the targets of its loss."""

from __future__ import annotations

from torch import nn

from autotrainer.adapter.observer import Recorder
from autotrainer.adapter.probed_model import NotProbedError, ProbedModel
from autotrainer.backends.pytorch.probing.probed_model import probed_call, reads_rows_first
from autotrainer.backends.pytorch.probing.recorded_call import FirstCall
from autotrainer.backends.pytorch.ranks.processes import several_ranks
from autotrainer.backends.pytorch.runtime.epoch_signals import batch_sizes
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.watching.losses.watched_losses import WatchedLosses

__all__ = ["FirstCallProbe"]


class FirstCallProbe:
    """Records the first call until `run` or `end`; does nothing where no probe is wanted.

    Args:
        model: The model.
        monitor: Runs the probes.
        losses: Report the targets.
    """

    def __init__(self, model: nn.Module, monitor: Recorder, losses: WatchedLosses) -> None:
        self._model, self._monitor, self._losses = model, monitor, losses
        if several_ranks() and monitor.wants_probe:
            monitor.probe(_refuse)
        self._first_call = FirstCall(model) if monitor.wants_probe else None
        if self._first_call is not None:
            losses.report_targets(self._first_call.take_targets)

    def end(self) -> None:
        """Record nothing more."""
        if self._first_call is not None:
            self._first_call.remove()
            self._first_call = None
            self._losses.report_targets(None)

    def run(self) -> None:
        """Probe a copy of the model, once, if a call was recorded."""
        first = self._first_call
        if first is None:
            return
        self.end()
        if first.call is None:
            return
        args, kwargs = first.call
        tensor = first_tensor((args, kwargs))
        rows_first = any(reads_rows_first(size, tensor) for size in batch_sizes()) or None
        self._monitor.probe(lambda: probed_call(self._model, args, kwargs, first.targets, rows_first=rows_first))


def _refuse() -> ProbedModel | None:
    """Refuse to probe a model whose passes are those of several processes."""
    raise NotProbedError("it is trained in several processes")
