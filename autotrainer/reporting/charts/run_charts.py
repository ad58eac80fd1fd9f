"""The charts of one run: its curves, its epochs, and its layers over the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.reporting.charts.downsampling import points
from autotrainer.reporting.charts.layer_charts import LayerCharts, layer_charts
from autotrainer.reporting.coverage import unmeasured
from autotrainer.reporting.outcome import Points

__all__ = ["Curve", "RunCharts", "run_charts"]

Group = Literal["loss", "metrics", "gradient norm", "learning rate"]

_MAX_CURVES = 12
"""Curves of one group: more can't be told apart by color."""
_SHARES = ("accuracy", "val_accuracy")


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve.

    Attributes:
        name: Its name in the history: ``loss``, ``val_loss``, ``grad_norm``, a term of the loss, a value of epochs.
        group: Curves of one group share a value axis.
        unit: Unit or definition of its values; empty if unknown.
        per: Whether it has a value per ``step``, or one at the end of each ``epoch``.
        points: (step, value) pairs; for ``epoch``, the step is the last one of the epoch.
    """

    name: str
    group: Group
    unit: str
    per: Literal["step", "epoch"]
    points: Points


@dataclass(frozen=True, slots=True)
class RunCharts:
    """What can be drawn of one run.

    Attributes:
        curves: Its curves.
        more_curves: Number of curves that were left out, as their group has too many.
        epochs: (number of epochs that had ended, last step) of the epochs whose end is known, at most 400.
        last_step: The latest step; -1 without any.
        layers: Statistics of its layers over the steps; None if none was measured.
        unmeasured: Names of what was never measured, and why if that is known.
    """

    curves: tuple[Curve, ...]
    more_curves: int
    epochs: Points
    last_step: int
    layers: LayerCharts | None
    unmeasured: tuple[str, ...] = ()


def run_charts(history: RunHistory, context: TaskContext, findings: Sequence[Finding] = ()) -> RunCharts:
    """Return the charts of a run. Their size and the time they take are bounded however long the run.

    Args:
        history: The measurements.
        context: The training's model and loss.
        findings: The findings: layers that they name are shown before others.
    """
    curves = [curve for curve in _curves(history, context) if any(np.isfinite(y) for _, y in curve.points)]
    kept = [
        curve
        for group in dict.fromkeys(curve.group for curve in curves)
        for curve in [c for c in curves if c.group == group][:_MAX_CURVES]
    ]
    return RunCharts(
        curves=tuple(kept),
        more_curves=len(curves) - len(kept),
        epochs=points(history.ended_epochs + 1, history.epoch_ends),
        last_step=history.step,
        layers=layer_charts(history, findings),
        unmeasured=unmeasured(history, context),
    )


def _curves(history: RunHistory, context: TaskContext) -> Iterator[Curve]:
    unit = "" if context.loss.name == "unknown" else context.loss.name
    yield Curve("loss", "loss", unit, "step", points(*history.losses))
    for name in history.term_names:
        yield Curve(name, "loss", "weighted term of the loss", "step", points(*history.term(name)))
    for name in sorted(history.epoch_names, key=lambda name: (name not in ("val_loss", *_SHARES), name)):
        epochs, values = history.epochs(name)
        if name != "loss":  # the losses of single steps say more
            steps = [history.step_of_epoch(int(epoch)) for epoch in epochs]
            group: Group = "loss" if name == "val_loss" else "metrics"
            yield Curve(name, group, _unit(name, unit), "epoch", points(steps, values))
    if "accuracy" not in history.epoch_names:
        yield Curve("accuracy", "metrics", _unit("accuracy", ""), "step", points(*_measured(history, "accuracy")))
    yield Curve(
        "grad_norm", "gradient norm", "L2 norm over all layers", "step", points(*_measured(history, "grad_norm"))
    )
    yield Curve("learning_rate", "learning rate", "", "step", points(*_measured(history, "learning_rate")))


def _unit(name: str, loss: str) -> str:
    return loss if name == "val_loss" else "share of rows" if name in _SHARES else ""


def _measured(history: RunHistory, column: str) -> tuple[np.ndarray, np.ndarray]:
    values = history.scalar(column)
    known = ~np.isnan(values)
    return history.steps[known], values[known]
