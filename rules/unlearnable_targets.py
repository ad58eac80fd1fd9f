"""AT507: targets that nothing in the inputs tells."""

from __future__ import annotations

import math

from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, best_simple_model, skill_of

__all__ = ["UnlearnableTargets"]

_ROWS = 20
"""Rows of one and the same target before that is worth a word."""


class UnlearnableTargets(Rule):
    """The targets are all the same, or nothing predicts them on new rows.

    What it does
        Looks whether targets vary; and, where a training came out poorly, whether any simple model predicts those of
        held-out rows better than chance.

    Why it hurts
        There is nothing to learn: no model, rate or longer training will change that. A large network learns the
        training rows by heart.

    Evidence used
        Spread of the targets. Accuracy or R² of a linear model, the nearest neighbours and a small tree on held-out
        rows, with their intervals; the network's on the same rows and on rows that it was trained on.

    Thresholds
        ``skill`` over the trivial predictor that the best simple model, and the network, may have on held-out rows at
        its upper end; ``memorised``: skill of the network on training rows from which it has learned them by heart.

    When it is wrong
        Some targets are told only by an order or a combination that no simple model sees (parity, the order of words,
        objects anywhere in an image): without a network that has memorised it is a warning. A loss that takes no
        notice of the targets is left alone, and so is a network that is trained on one answer on purpose, as an
        adversarial generator is.

    Repairs
        Advice only: check how targets were read, joined and shuffled; look at some rows of each class.

    References
        Zhang et al., Understanding Deep Learning Requires Rethinking Generalization, ICLR 2017; Karpathy, A Recipe for
        Training Neural Networks, 2019.
    """

    problem = "unlearnable_targets"
    code = "AT507"
    aliases = ("constant_labels", "constant_targets", "random_labels", "shuffled_labels", "label_noise")
    needs = frozenset({"constant_targets", "train_score", "simple_features"}) | SIMPLE_NEEDS
    causes = ("nonfinite_data",)
    static = True
    THRESHOLDS = thresholds(
        skill=Threshold(0.2, "skill on held-out rows, at most", "width of its interval at 250 rows", maximum=1),
        memorised=Threshold(0.5, "skill of the network on training rows", "half way to perfect", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge the targets seen, and what was asked."""
        return self._constant(history, context) or self._by_simple_models(context)

    def _constant(self, history: RunHistory, context: TaskContext) -> Finding | None:
        targets = history.targets
        known = context.asked.get("constant_targets")
        if known == 0 or context.loss.own or targets.rows < _ROWS or not _same(targets):
            return None
        one_answer = context.loss.family == "binary_cross_entropy" and targets.binary
        whole = known == 1 or (context.train_rows is not None and 0 < context.train_rows <= targets.rows)
        if one_answer and not known:
            return None
        seen = "all training rows" if known == 1 else f"all {targets.rows} rows seen"
        value = f" ({targets.minimum:.3g})" if targets.width == 1 else ""
        message = f"The targets of {seen} are the same{value}: there is nothing to learn."
        if not whole and not history.epoch:
            message += " The rest may differ, where rows come in an order."
        severity = Severity.ERROR if whole else Severity.WARNING
        return self.finding(severity, 0.95 if whole else 0.6, message, {"target_variance": targets.variance})

    def _by_simple_models(self, context: TaskContext) -> Finding | None:
        simple = best_simple_model(context)
        asked = {name: context.asked.get(name, math.nan) for name in ("train_score", "held_out_score")}
        if simple is None or simple.low > 0 or simple.high > self.threshold("skill"):
            return None
        _, reached = skill_of(asked["held_out_score"], simple.trivial, simple.rows)
        if not reached <= self.threshold("skill"):
            return None
        evidence = {**asked, "simple_score": simple.score, "trivial_score": simple.trivial}
        evidence |= {"held_out_rows": float(simple.rows)}
        learned = (asked["train_score"] - simple.trivial) / (1 - simple.trivial)
        none = (
            f"no simple model predicts the targets of {simple.rows} held-out rows better than chance (the best, "
            f"{simple.name}, has {simple.score:.3g}; the trivial predictor {simple.trivial:.3g}): check whether "
            "they are right."
        )
        if learned >= self.threshold("memorised"):
            message = (
                f"The model has learned its training rows by heart ({asked['train_score']:.3g}) and has "
                f"{asked['held_out_score']:.3g} on new ones, and {none}"
            )
            return self.finding(Severity.ERROR, 0.85, message, evidence)
        message = f"The model has {asked['held_out_score']:.3g} on new rows, and {none}"
        return self.finding(Severity.WARNING, 0.5, message, evidence)


def _same(targets: TargetSummary) -> bool:
    """Say whether nothing but rounding tells the targets of different rows apart."""
    return targets.variance <= 1e-20 * max(abs(targets.minimum), abs(targets.maximum)) ** 2
