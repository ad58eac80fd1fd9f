"""AT510: targets that belong to other rows."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import skill_of

__all__ = ["ShuffledLabels"]

_CHANCE = 3.0
"""Normal quantile of the lower end: one-sided 0.8 % for the best of three alignments and two models (Bonferroni)."""

_NEEDS = ("aligned_score", "misaligned_score", "misaligned_lag", "alignment_trivial_score", "alignment_rows")


class ShuffledLabels(Rule):
    """Inputs and targets do not belong together: those of neighboring rows fit, their own do not.

    What it does
        Scores a linear model and nearest neighbors on held-out rows with the targets as they are, with those of the
        next and of the previous row, and with the targets in reverse order.

    Why it hurts
        A model that is trained on the targets of other rows learns nothing that helps on new data, or memorizes noise.
        An index that is off by one, a header that is skipped in one of two files, or one of two arrays that is sorted
        or reversed are enough.

    Evidence used
        Accuracy or R² of the better of the two models with each alignment, with an interval, and of the trivial
        predictor.

    Thresholds
        ``skill``: skill over the trivial predictor that the targets of other rows give at least, at the lower end of
        its interval. With the rows' own targets, it must not be above chance.

    When it is wrong
        Hardly ever: where neighboring rows are alike, the rows' own targets fit too, and windows of a series, which
        hold the targets of other rows, are left out. Targets that were shuffled at random fit nowhere; these are a
        case of `unlearnable_targets`.

    Repairs
        Advice only: check how inputs and targets were read and joined, and look at some pairs.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019; Humbatova et al., Taxonomy of Real Faults in Deep
        Learning Systems, ICSE 2020 (wrong labels among the training data faults).
    """

    problem = "shuffled_labels"
    code = "AT510"
    aliases = ("misaligned_labels", "misaligned_targets", "off_by_one_labels")
    phrases = (
        "labels shifted by one row",
        "x and y are not aligned",
        "inputs and labels in different order",
        "shuffled x but not y",
    )
    needs = frozenset(_NEEDS)
    static = True
    THRESHOLDS = thresholds(
        skill=Threshold(0.2, "skill with the targets of other rows, at least", "as for unlearnable_targets", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        own, other, lag, trivial, rows = (context.asked.get(name, math.nan) for name in _NEEDS)
        if not trivial < 1 or not rows >= 1:
            return None
        low, _ = skill_of(other, trivial, rows, _CHANCE)
        own_low, _ = skill_of(own, trivial, rows, 1.64)
        if not (low >= self.threshold("skill") and own_low <= 0):
            return None
        whose = {1: "of the next row", -1: "of the previous row"}.get(round(lag), "in reverse order")
        message = (
            f"Inputs and targets do not belong together: with the targets {whose}, a simple model scores {other:.3g} "
            f"on {rows:.0f} held-out rows; with those of the rows themselves {own:.3g}, the trivial predictor "
            f"{trivial:.3g}."
        )
        evidence = dict(zip(_NEEDS, (own, other, lag, trivial, rows), strict=True))
        return self.finding(Severity.ERROR, 0.95, message, evidence)
