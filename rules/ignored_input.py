"""AT505: a model whose predictions do not depend on its inputs."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, best_simple_model

__all__ = ["IgnoredInput"]

_SURE, _USUAL = 2.33, 1.645
"""One-sided quantiles of the normal distribution: 99 % to prove a gain, 95 % to bound it."""


class IgnoredInput(Rule):
    """The model does no worse on the inputs of other rows: it makes no use of its inputs.

    What it does
        Scores the trained model on training rows as they are, and with the inputs exchanged between the rows.

    Why it hurts
        All the model can know is how often each target occurs. Something between inputs and output is broken, or the
        inputs do not belong to the targets.

    Evidence used
        The gain of each row's correct inputs over those of another row, paired over the same rows, with its standard
        error. The rows are training rows, so that a model that has only memorized them still passes. Also whether a
        simple model predicts the targets of held-out rows from the inputs.

    Thresholds
        ``gain``: largest gain in accuracy (R²) from the correct inputs, at the upper end of its 95 % interval.
        ``reachable``: skill of a simple model, beyond doubt, that proves that the inputs are useful.

    When it is wrong
        Data without any signal look the same: unless a simple model does better, this is a warning. The test runs in
        `fit` only, after a training that ended poorly for no known reason; before a training it would mean nothing,
        since no model knows its data then.

    Repairs
        Advice only: check what reaches the model, the order of inputs and targets, and what the report names as the
        root cause.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019 (input-independent baseline); Fisher, Design of
        Experiments, 1935 (permutation).
    """

    problem = "ignored_input"
    code = "AT505"
    aliases = ("input_blind", "blind", "input_independent", "ignores_input")
    phrases = (
        "model ignores the input",
        "output does not depend on the input",
        "prediction does not change with the input",
        "model does not use its inputs",
        "shuffled inputs give the same accuracy",
    )
    needs = frozenset({"train_score", "permuted_score", "input_gain", "input_gain_error"}) | SIMPLE_NEEDS
    causes = ("not_learning",)
    THRESHOLDS = thresholds(
        gain=Threshold(0.15, "gain from the correct inputs, at most", "as not_learning.skill", maximum=1),
        reachable=Threshold(0.1, "skill of a simple model beyond doubt", "more than rounding", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        names = ("input_gain", "input_gain_error", "train_score", "permuted_score")
        evidence = {name: context.asked.get(name, math.nan) for name in names}
        gain, error, original, permuted = evidence.values()
        if not gain - _SURE * error <= 0 or not gain + _USUAL * error <= self.threshold("gain"):
            return None
        message = (
            f"The model ignores its inputs: it scores {original:.3g} with the correct inputs and {permuted:.3g} with "
            "those of other rows, even on rows that it was trained on"
        )
        simple = best_simple_model(context)
        if simple is not None and simple.low >= self.threshold("reachable"):
            evidence["simple_score"] = simple.score
            return self.finding(Severity.ERROR, 0.9, f"{message}. {simple.sentence}", evidence)
        none = ", and no simple model can use them either" if simple is not None else ""
        return self.finding(
            Severity.WARNING, 0.5, f"{message}{none}; check whether each input is paired with its own target.", evidence
        )
