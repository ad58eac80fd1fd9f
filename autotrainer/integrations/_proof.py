"""When a trial of a sweep is proven to be sick: by its outcome, not by a symptom.

A symptom passes, and so may a plateau: a trial ends only in a state that no step leaves, or with a bad outcome that has
a cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autotrainer.edits.base import shorten
from autotrainer.errors import InputError
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding, Severity, fold
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

__all__ = ["CAUSE", "MESSAGE", "CauseProof", "stays_constant"]

CAUSE, MESSAGE = "autotrainer_cause", "autotrainer_message"
"""Keys under which a sweep keeps a trial's root problem by name, and its finding in one line."""

_OUTCOMES = ("nonfinite", "divergence", "not_learning")
"""Errors that say what has become of a training: nothing but NaN, worse than untrained, no better than a constant."""
_LAST = 10
"""Steps in a row without a finite loss, or without any gradient, from which no training comes back by itself."""
_SAMPLES, _ROWS = 3, 100
"""Sampled steps in a row, and rows in them, in which no row gives any hidden layer a gradient: then at most 3 % of all
rows would (rule of three, at 95 %)."""
_ROUNDING = 1e-6
"""Spread of outputs over rows ÷ their size up to which they are equal: single precision."""
_NO_CAUSE = ("not_learning", "slow_convergence")
"""Roots that say no more than the outcome: a plateau may end by itself."""
_PATIENCE = 0.25
"""Share of the planned training after which an outcome that could still change counts: that of rule `not_learning`."""


class CauseProof:
    """Decides whether a training can't become good, by what a monitor has found.

    It is proven if weights, or the last ten losses, are NaN or infinite; if in three sampled steps outputs are the same
    for all rows and no hidden layer gets a gradient; or if the last ten sampled gradients are exactly zero and nothing
    has been learned. After a quarter of the planned training, it is also proven if the training is worse than
    untrained, or no better than a constant prediction and an error says why, at two checks in a row.

    Args:
        watched: The monitor, or a callback with the attribute ``monitor``, which may be None until it starts.

    Raises:
        InputError: If it is neither.
    """

    def __init__(self, watched: Any) -> None:
        if not isinstance(watched, Monitor) and not hasattr(watched, "monitor"):
            raise InputError(f"a trial needs its monitor, which autotrainer.watch returns, not {shorten(watched)}")
        self._watched = watched
        self._before: tuple[str, int] | None = None

    def check(self) -> Finding | None:
        """Return the root cause, once it is proven; else None. Call it at intervals, such as after each epoch."""
        monitor = self._watched if isinstance(self._watched, Monitor) else self._watched.monitor
        if not isinstance(monitor, Monitor) or not len(monitor.history.steps):
            return None
        findings, history = monitor.findings, monitor.history
        errors = {f.problem: f for f in findings if f.severity is Severity.ERROR}
        outcome = next((errors[problem] for problem in _OUTCOMES if problem in errors), None)
        before, self._before = self._before, None
        if errors and (_is_lost(history) or stays_constant(history, monitor.context)):
            return _root(outcome or next(iter(errors.values())), findings)
        if outcome is None:
            return None
        if "not_learning" in errors and _is_at_rest(history):
            return _root(outcome, findings)
        share = _share(history, monitor.context)
        if outcome.problem == "nonfinite" or share is None:
            return None
        root = _root(outcome, findings)
        if root.severity is not Severity.ERROR or root.problem in _NO_CAUSE:
            return None
        self._before = outcome.problem, history.step
        held = before is not None and before[0] == outcome.problem and before[1] < history.step
        return root if held and share >= _PATIENCE else None


def _is_lost(history: RunHistory) -> bool:
    """Return whether weights, or losses for so long that weights must be, are NaN or infinite."""
    losses = history.losses[1][-_LAST:]
    return bool(np.isinf(history.layer("weight_norm")[-1:]).any() or (len(losses) == _LAST and np.isinf(losses).all()))


def _is_at_rest(history: RunHistory) -> bool:
    """Return whether no weight has had a gradient for so long that no step changes anything."""
    norms = history.scalar("grad_norm")[-_LAST:]
    return len(norms) == _LAST and not norms.any()


def stays_constant(history: RunHistory, context: TaskContext) -> bool:
    """Return whether the model is a constant that only its output layer still moves, so that it stays one.

    In each of the last sampled steps, outputs were the same for all rows, and the gradients of all hidden layers
    exactly zero. Output weights of zero stop those gradients, too, but only until their first step: so they must have
    changed in the meantime, or have no gradient either.
    """
    layers = context.layers if len(context.layers) == len(history.layers) else history.layers
    trained = [row for row, layer in enumerate(layers) if layer.parameters > layer.unowned and not layer.frozen]
    hidden = [row for row in trained if layers[row].hidden]
    last = [row for row in trained if not layers[row].hidden]
    if not hidden or not last:
        return False
    zero = (history.layer("grad_norm")[:, hidden] == 0).all(axis=1)
    targets = history.scalar("target_spread")
    sizes = np.abs([history.scalar("output_min"), history.scalar("output_max"), targets]).max(axis=0)
    equal = np.isfinite(sizes) & (history.scalar("output_spread") <= _ROUNDING * sizes)
    held = zero & equal & (history.scalar("input_std") > 0) & (targets > 0)
    count = len(held) if held.all() else int(np.argmin(held[::-1]))
    rows = history.scalar("batch_size")[len(held) - count :]
    if count < _SAMPLES or np.nansum(rows) < min(_ROWS, context.train_rows or _ROWS):
        return False
    weights, gradients = (history.layer(name)[len(held) - count :, last] for name in ("weight_norm", "grad_norm"))
    return bool((weights != weights[0]).any() or not gradients.any()) and bool(np.isfinite(weights).all())


def _share(history: RunHistory, context: TaskContext) -> float | None:
    """Return the share of the planned training that is done, or None without a plan."""
    if context.planned_steps:
        return (history.step + 1) / context.planned_steps
    return history.epoch / context.planned_epochs if context.planned_epochs else None


def _root(finding: Finding, findings: Sequence[Finding]) -> Finding:
    """Return the root of a finding, if that is more than a fact."""
    for root, consequences in fold(findings):
        if finding is root or finding in consequences:
            return root if root.severity is not Severity.INFO else finding
    return finding
