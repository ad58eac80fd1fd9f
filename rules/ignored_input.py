"""AT505: a model that answers the same whatever it is shown."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, best_simple_model

__all__ = ["IgnoredInput"]

_SURE, _USUAL = 2.33, 1.645
"""One-sided quantiles of the normal distribution: 99 % for a gain that is there, 95 % for one that may be."""


class IgnoredInput(Rule):
    """The model does not do worse on the inputs of other rows: it makes no use of them.

    What it does
        Judges the trained model on training rows as they are, and with the inputs exchanged between the rows.

    Why it hurts
        What the model knows is at most how often each answer occurs. Something between the inputs and the output is
        broken, or the inputs do not belong to the targets.

    Evidence used
        The gain of the own inputs over those of another row, paired over the same rows, with its standard error, on
        rows that were trained on: a model that has only memorised still passes. Whether a simple model can tell the
        targets of held-out rows from the inputs.

    Thresholds
        ``gain``: accuracy (R²) that the own inputs may be worth, at its upper end of 95 %; ``reachable``: skill of a
        simple model beyond doubt that proves the inputs worth something.

    When it is wrong
        Data without any signal give the same picture: without a simple model that does better it is a warning. Asked
        in `fit` alone, after a training that came out poorly for no known reason; before a training it would say
        nothing, since no model knows its data then.

    Repairs
        Advice only: look at what reaches the model, at the order of inputs and targets, and at what the report names
        as the root.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019 (input-independent baseline); Fisher, Design of
        Experiments, 1935 (permutation).
    """

    problem = "ignored_input"
    code = "AT505"
    aliases = ("input_blind", "blind", "input_independent", "ignores_input")
    needs = frozenset({"train_score", "permuted_score", "input_gain", "input_gain_error"}) | SIMPLE_NEEDS
    causes = ("not_learning",)
    THRESHOLDS = thresholds(
        gain=Threshold(0.15, "worth of the own inputs, at most", "as not_learning.skill", maximum=1),
        reachable=Threshold(0.1, "skill of a simple model beyond doubt", "more than rounding", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge what was asked."""
        names = ("input_gain", "input_gain_error", "train_score", "permuted_score")
        evidence = {name: context.asked.get(name, math.nan) for name in names}
        gain, error, own, foreign = evidence.values()
        if not gain - _SURE * error <= 0 or not gain + _USUAL * error <= self.threshold("gain"):
            return None
        message = (
            f"The model does as well on the inputs of other rows ({foreign:.3g}) as on the own ones ({own:.3g}), even "
            f"on rows that it was trained on"
        )
        simple = best_simple_model(context)
        if simple is not None and simple.low >= self.threshold("reachable"):
            evidence["simple_score"] = simple.score
            return self.finding(Severity.ERROR, 0.9, f"{message}. {simple.sentence}", evidence)
        none = ", and no simple model makes use of them either" if simple is not None else ""
        return self.finding(
            Severity.WARNING, 0.5, f"{message}{none}: check whether inputs and targets are matched.", evidence
        )
