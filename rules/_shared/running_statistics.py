"""Running statistics of batch normalization that evaluations can't rely on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from autotrainer.records.findings import Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.layers import weight_layers
from autotrainer.rules._shared.outcome import Outcome
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = ["RUNNING_NEEDS", "UnreliableStatistics", "unreliable_statistics"]

RUNNING_NEEDS = frozenset({"training_mode", "backward_passes", "activation_spread"})
"""Columns that `unreliable_statistics` reads, beside those of the outcome."""

_EVALUATIONS, _RIPE = 2, 0.5
"""Fewest evaluations, and share of the schedule before which they are no evidence."""

_MOSTLY, _CLEAR = 0.5, 2.0
"""Share of the initial values from which they outweigh all batches, and factor on the gap, for an error."""

_UNIT = math.sqrt(10)
"""Factor by which the standard deviation of a normalization's inputs must differ from the initial value 1, so that
statistics that hold mostly that value are wrong for them: a variance of a tenth, or ten times as large."""


@dataclass(frozen=True, slots=True)
class UnreliableStatistics:
    """Layers whose running statistics are unreliable, while validation is worse than training, or there was none.

    Attributes:
        severity: An error only if the initial values outweigh all batches, and the gap is clear.
        message: What is wrong, as a sentence.
        evidence: The numbers.
        rows: The layers.
    """

    severity: Severity
    message: str
    evidence: dict[str, float]
    rows: list[int]


def unreliable_statistics(
    history: RunHistory, context: TaskContext, result: Outcome, *, initial: float, newest: float, least: float
) -> UnreliableStatistics | None:
    """Find running statistics that hold much of their initial values, or little more than the last batch.

    After n batches, of which each has the share m, they hold (1 − m)ⁿ of the initial values. Layers that were trained
    before the first observed step have statistics of that time, and may average slowly on purpose. Where a training has
    ended without any evaluation, only initial values that outweigh all batches count, and only in layers whose inputs
    have a spread that is far from them.

    Args:
        history: The history.
        context: The training's model, loss, optimizer and data.
        result: How the training does.
        initial: Share of the initial values, at least.
        newest: Share of the last batch, at least.
        least: Skill in training − in validation, at least.
    """
    layers = context.layers if len(context.layers) == len(history.layers) else history.layers
    gap = result.skill - held_out_skill(history, context)
    modes = history.scalar("training_mode")[-_EVALUATIONS:]
    evaluated = any(name.startswith("val_") or name == "evaluation_mode" for name in history.epoch_names)
    unseen = history.finished and not evaluated
    if not (gap >= least or unseen) or not result.mature(_RIPE) or not (modes == 1).all():
        return None
    if (len(history.ended_epochs) < _EVALUATIONS and not unseen) or history.steps[0] > 0:
        return None
    passes = history.scalar("backward_passes")
    passes = passes[passes >= 1]
    batches = (history.step + 1) * (float(np.median(passes)) if len(passes) else 1.0)
    shares = {
        row: layer.averaging
        for row, layer in enumerate(layers)
        if layer.averaging is not None and not layer.frozen and layer.origin != "trained"
    }
    left = {row: (1 - share) ** batches for row, share in shares.items() if 0 <= share <= 1}
    if unseen:
        return _unseen(history, context, left, batches)
    stale = [row for row, value in left.items() if value >= initial]
    whole = bool((history.steps_per_epoch == 1).all())  # each batch holds all rows
    jumping = [row for row in left if shares[row] >= newest and not whole]
    rows = stale or jumping
    if not rows:
        return None
    share = shares[rows[0]]
    evidence = {"averaging": share, "batches": batches, "skill_gap": gap, "layers": float(len(rows))}
    which = _names(history, rows)
    severity = Severity.WARNING
    if stale:
        evidence["initial_share"] = left[rows[0]]
        text = (
            f"the running statistics of {which} still hold {left[rows[0]]:.0%} of their initial values 0 and 1 after "
            f"{batches:.0f} batches, as each batch has a share of {about(share)}"
        )
        at_end = left[rows[0]] ** max(1.0, result.planned / result.steps)
        if at_end >= _MOSTLY and gap >= _CLEAR * least and not context.managed:  # where more epochs may be the repair
            severity = result.worst
    else:
        text = (
            f"the running statistics of {which} are little more than those of the last batch, which has a share of "
            f"{about(share)} in them"
        )
    message = (
        f"Evaluations can't rely on batch normalization: {text} ({_setting(context, share)}); skill over a constant "
        f"prediction is {result.skill:.3g} in training and {result.skill - gap:.3g} in validation. "
        f"{_advice(context, longer=bool(stale))}"
    )
    return UnreliableStatistics(severity, message, evidence, rows)


def _unseen(
    history: RunHistory, context: TaskContext, left: dict[int, float], batches: float
) -> UnreliableStatistics | None:
    """Return the layers whose initial statistics outweigh all batches, though their inputs are far from these."""
    spreads = {row: spread for row in left if (spread := _input_spread(history, row)) > 0}
    rows = [row for row, spread in spreads.items() if left[row] >= _MOSTLY and not 1 / _UNIT < spread < _UNIT]
    if not rows or context.managed:  # which evaluates by itself
        return None
    row = max(rows, key=lambda row: abs(math.log(spreads[row])))
    share = 1 - left[row] ** (1 / batches)
    message = (
        f"Predictions can't rely on batch normalization, and no validation has shown it: the running statistics of "
        f"{_names(history, rows)} still hold {left[row]:.0%} of their initial values 0 and 1 after {batches:.0f} "
        f"batches, as each batch has a share of {about(share)} ({_setting(context, share)}), while inputs of "
        f"{history.layers[row].name} have a standard deviation of {about(spreads[row])}. "
        f"{_advice(context, longer=True)}"
    )
    evidence = {"averaging": share, "batches": batches, "initial_share": left[row], "input_spread": spreads[row]}
    return UnreliableStatistics(Severity.WARNING, message, evidence | {"layers": float(len(rows))}, rows)


def _input_spread(history: RunHistory, row: int) -> float:
    """Return the spread over samples of the output of the last layer with weights before a normalization; else NaN."""
    before = [other for other in weight_layers(history) if other < row]
    return float(last_median(history.layer("activation_spread")[:, before[-1:]]).sum()) if before else math.nan


def _names(history: RunHistory, rows: list[int]) -> str:
    return f"normalization {history.layers[rows[0]].name}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")


def _setting(context: TaskContext, share: float) -> str:
    return f"momentum={1 - share if context.framework.startswith('keras') else share:.4g}"


def _advice(context: TaskContext, *, longer: bool) -> str:
    usual = 0.9 if context.framework.startswith("keras") else 0.1
    return f"{'Train longer, or set' if longer else 'Set'} momentum={usual}."
