"""Running statistics of batch normalization that evaluations can't rely on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotrainer.records.findings import Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.outcome import Outcome
from autotrainer.rules._shared.words import about

__all__ = ["RUNNING_NEEDS", "UnreliableStatistics", "unreliable_statistics"]

RUNNING_NEEDS = frozenset({"training_mode", "backward_passes"})
"""Columns that `unreliable_statistics` reads, beside those of the outcome."""

_EVALUATIONS, _RIPE = 2, 0.5
"""Fewest evaluations, and share of the schedule before which they are no evidence."""

_MOSTLY, _CLEAR = 0.5, 2.0
"""Share of the initial values from which they outweigh all batches, and factor on the gap, for an error."""


@dataclass(frozen=True, slots=True)
class UnreliableStatistics:
    """Layers whose running statistics are unreliable, while validation is worse than training.

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
    before the first observed step have statistics of that time, and may average slowly on purpose.

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
    if not gap >= least or not result.mature(_RIPE) or not (modes == 1).all():
        return None
    if len(history.ended_epochs) < _EVALUATIONS or history.steps[0] > 0:
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
    stale = [row for row, value in left.items() if value >= initial]
    whole = bool((history.steps_per_epoch == 1).all())  # each batch holds all rows
    jumping = [row for row in left if shares[row] >= newest and not whole]
    rows = stale or jumping
    if not rows:
        return None
    share = shares[rows[0]]
    evidence = {"averaging": share, "batches": batches, "skill_gap": gap, "layers": float(len(rows))}
    which = f"normalization {layers[rows[0]].name}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
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
    keras = context.framework.startswith("keras")
    setting = f"momentum={1 - share if keras else share:.4g}"
    advice = f"{'Train longer, or set' if stale else 'Set'} momentum={0.9 if keras else 0.1}"
    message = (
        f"Evaluations can't rely on batch normalization: {text} ({setting}); skill over a constant prediction is "
        f"{result.skill:.3g} in training and {result.skill - gap:.3g} in validation. {advice}."
    )
    return UnreliableStatistics(severity, message, evidence, rows)
