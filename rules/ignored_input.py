"""AT505: a model whose predictions do not depend on its inputs."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, best_simple_model

__all__ = ["IgnoredInput"]

_SURE, _USUAL = 2.33, 1.645
"""One-sided quantiles of the normal distribution: 99 % to prove a gain, 95 % to bound it."""

_PARTS = ("input_fields", "ignored_fields", "ignored_field", "input_columns", "ignored_columns", "ignored_column")


class IgnoredInput(Rule):
    """The model does no worse on the inputs of other rows, or no output depends on one of its inputs.

    What it does
        Scores the trained model on training rows as they are, and with the inputs exchanged between the rows. On a copy
        of the model, it also gives each of several inputs, or each column of a table, the values of other rows.

    Why it hurts
        All the model can know is how often each target occurs. Something between inputs and output is broken, or the
        inputs do not belong to the targets. An input that is not passed on, is cut off, or is multiplied by zero is
        information that the model was meant to have.

    Evidence used
        The gain of each row's correct inputs over those of another row, paired over the same rows, with its standard
        error. The rows are training rows, so that a model that has only memorized them still passes. Also whether a
        simple model predicts the targets of held-out rows from the inputs. A single input or column counts as ignored
        if no output changes by a bit, for other values and larger ones, and for other weights as well.

    Thresholds
        ``gain``: largest gain in accuracy (R²) from the correct inputs, at the upper end of its 95 % interval.
        ``reachable``: skill of a simple model, beyond doubt, that proves that the inputs are useful.

    When it is wrong
        Data without any signal look the same: unless a simple model does better, this is a warning. Scores are compared
        in `fit` only, after a training that ended poorly for no known reason; before a training they would mean
        nothing, since no model knows its data then. An input that is passed along for other uses, such as an index, may
        be ignored by design: that is a warning too.

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
    needs = frozenset({"train_score", "permuted_score", "input_gain", "input_gain_error", *_PARTS}) | SIMPLE_NEEDS
    static = True
    causes = ("class_imbalance", "not_learning")
    THRESHOLDS = thresholds(
        gain=Threshold(0.15, "gain from the correct inputs, at most", "as not_learning.skill", maximum=1),
        reachable=Threshold(0.1, "skill of a simple model beyond doubt", "more than rounding", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        names = ("input_gain", "input_gain_error", "train_score", "permuted_score")
        evidence = {name: context.asked.get(name, math.nan) for name in names}
        gain, error, original, permuted = evidence.values()
        if not gain - _SURE * error <= 0 or not gain + _USUAL * error <= self.threshold("gain"):
            return self._part(context)
        message = (
            f"The model ignores its inputs: it scores {original:.3g} with the correct inputs and {permuted:.3g} with "
            "those of other rows, even on rows that it was trained on"
        )
        simple = best_simple_model(context)
        if simple is not None and simple.low >= self.threshold("reachable"):
            evidence["simple_score"] = simple.score
            return self.finding(Severity.ERROR, 0.9, f"{message}. {simple.sentence}", evidence)
        rare = context.asked.get("balanced_gap_low", 0) > 0  # one that weights the classes can
        none = ", and no simple model can use them either" if simple is not None and not rare else ""
        return self.finding(
            Severity.WARNING, 0.5, f"{message}{none}; check whether each input is paired with its own target.", evidence
        )

    def _part(self, context: TaskContext) -> Finding | None:
        """Return a finding on inputs or columns that no output depends on."""
        evidence = {name: context.asked[name] for name in _PARTS if name in context.asked}
        for kind in ("field", "column"):
            ignored, tested = (evidence.get(f"{name}_{kind}s", 0.0) for name in ("ignored", "input"))
            if not ignored:
                continue
            first = int(evidence[f"ignored_{kind}"])
            names = context.input_fields
            name = repr(names[first]) if kind == "field" and first < len(names) else f"{kind} {first} (counted from 0)"
            name = f"input {name}" if kind == "field" else name
            others = f", nor on {ignored - 1:.0f} others" if ignored > 1 else ""
            message = f"No output depends on {name}{others}, of {tested:.0f} {kind}s that differ between rows"
            advice = "check that it is passed on, and not cut off or multiplied by zero"
            return self.finding(Severity.WARNING, 0.8, f"{message}; {advice}.", evidence)
        return None
