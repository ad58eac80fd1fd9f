"""AT306: a model that is no better than a constant prediction, or clearly worse than a simple model."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import CHANCE, SIMPLE_NEEDS, best_simple_model, lead_of_simple_model
from autotrainer.rules._shared.outcome import CAUSES_OF_NO_SKILL, OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["WorseThanSimpleModel"]

_CONSTANT_NEEDS = frozenset(
    {"above_constant", "metric_score", "constant_score", "judged_rows", "judged_in_training", "permuted_loss"}
    | {"first_loss"}
)

_CATEGORIES = frozenset({"category_column", "category_columns", "category_levels"})

_CONFIDENCE = 0.7
"""Confidence of errors: lower than that of most causes, which come first, although the comparison is measured."""

_HALF = 0.5
"""Share of a simple model's lead over a constant prediction: a network that misses so much has learned less than it has
left. Where a constant prediction is nearly always right, as with many labels or rare classes, all gaps are small."""


class WorseThanSimpleModel(Rule):
    """The trained model is no better than a constant prediction, or clearly worse than a simple model on the same rows.

    What it does
        At the end of a managed training, compares the score on validation data with that of the best constant
        prediction, and with those of models that take less than a second: ridge regression, linear and with a Gaussian
        kernel, nearest neighbors and a small tree; principal components where the inputs are to be reconstructed. At
        the end of a watched training, these models are fitted on some of the rows that were sampled, and score others;
        or the same ones, where the data hold few different rows, each with a single target, as a truth table.

    Why it hurts
        A network that a model of a second beats is not worth its cost: something in the training, the data or the
        architecture keeps it from what the inputs show.

    Evidence used
        The score of each on the same rows, and the standard error of the difference, row by row. Of each simple model
        only up to 1,000 training rows. A linear model also takes columns of whole numbers in a table as categories. If
        fewer than 60 validation rows show no certain difference, up to 250 training rows, which the simple models
        predict by cross-validation although the network was trained on them. If there are so few validation rows that
        not even a perfect score would be clearly better than a constant prediction, training rows are judged instead.
        If the best constant prediction of a loss is unknown, its value is compared with that for inputs of other rows.
        In a watched training, the network's score on training or validation data, whichever is better, with its
        interval.

    Thresholds
        ``gap``: difference in accuracy or R², beyond noise, from which this is an error. ``noticed``: difference from
        which it is a warning, or a fact in a watched training, where the rows are not the same; it is an error in a
        managed training if it is also more than half of what the simple model gains over a constant prediction. Smaller
        ones that are beyond noise are facts in a managed training.

    When it is wrong
        Simple models can be the right choice for small tables; then this is true, and of no use. Losses that weight
        classes are not compared with simple models, as these do not weight them. While it is trained, a network with
        dropout does worse than afterwards: it is only compared if its accuracy on validation data is as low.

    Repairs
        Learning rate, optimizer, more epochs, standardized inputs, normalization, or more units. Numbers of categories
        are for you to encode, as the model's inputs change.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019; Zinkevich, Rules of Machine Learning, rules 1 and 4;
        Grinsztajn, Oyallon and Varoquaux, NeurIPS 2022 (networks and simple models on tables).
    """

    problem = "worse_than_simple_model"
    code = "AT306"
    aliases = ("below_baseline", "worse_than_baseline", "below_simple_model", "worse_than_linear_model")
    phrases = (
        "worse than logistic regression",
        "worse than linear regression",
        "neural network worse than random forest",
        "below the baseline",
        "no better than predicting the mean",
    )
    needs = (
        OUTCOME_NEEDS
        | SIMPLE_NEEDS
        | _CONSTANT_NEEDS
        | _CATEGORIES
        | frozenset({"simple_gap", "simple_gap_error", "simple_crossed"})
    )
    causes = (
        "validation_mismatch",
        *CAUSES_OF_NO_SKILL,
        "overfitting",
        "too_few_epochs",
        "slow_convergence",
        "not_learning",
        "abnormal_update_ratio",
        "oscillating_loss",
        "ignored_input",
        "abnormal_initial_loss",
    )
    repairs = (
        "scale_learning_rate",
        "swap_optimizer",
        "scale_inputs",
        "extend_training",
        "insert_normalization",
        "swap_activation",
        "resize_hidden_layers",
        "replace_train_step",
    )
    THRESHOLDS = thresholds(
        gap=Threshold(0.1, "difference in accuracy or R² that is an error", "convention", maximum=1),
        noticed=Threshold(0.05, "difference that is a warning", "half of it", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        by_simple_model = self._by_simple_model(context)
        if context.asked.get("above_constant") == 0:
            return self._by_constant(context, by_simple_model)
        return by_simple_model or self._in_training(context) or self._watched(history, context)

    def _by_constant(self, context: TaskContext, by_simple_model: Finding | None) -> Finding:
        evidence = {name: context.asked[name] for name in sorted(_CONSTANT_NEEDS & set(context.asked))}
        score, constant = evidence["metric_score"], evidence.get("constant_score", math.nan)
        if "first_loss" in evidence:
            message = (
                f"The loss ended at {about(score, 3)}, no lower than at the first step "
                f"({about(evidence['first_loss'], 3)}): nothing has been learned."
            )
        elif math.isnan(constant):
            message = (
                f"The validation loss, {about(score, 3)}, is no lower than if the inputs of each row were those of "
                f"another one ({about(evidence['permuted_loss'], 3)}): the predictions are no better than a constant."
            )
        else:
            message = (
                f"The model is not clearly better than a constant prediction: {_rows(evidence)} its score is "
                f"{about(score, 3)}, that of the best constant prediction {about(constant, 3)}."
            )
        if by_simple_model is not None:
            simple = best_simple_model(context)
            message += f" {simple.sentence}" if simple is not None and simple.low > 0 else ""
            evidence |= by_simple_model.evidence
        return self.finding(Severity.ERROR, _CONFIDENCE, message, evidence)

    def _by_simple_model(self, context: TaskContext) -> Finding | None:
        simple = best_simple_model(context)
        facts = context.asked
        gap, error = facts.get("simple_gap", math.nan), facts.get("simple_gap_error", math.nan)
        if simple is None or not gap - CHANCE * error > 0:
            return None
        score = facts.get("held_out_score", math.nan)
        evidence = {"held_out_score": score, "simple_score": simple.score, "simple_gap": gap, "simple_gap_error": error}
        evidence |= {"trivial_score": simple.trivial, "held_out_rows": float(simple.rows)}
        name, scores = f"{simple.name[0].upper()}{simple.name[1:]}", (about(simple.score, 3), about(score, 3))
        message = (
            f"{name} does better on the same {simple.rows} held-out rows: it scores {scores[0]}, the model {scores[1]}."
        )
        if facts.get("simple_crossed"):
            message = (
                f"{name} does better on {simple.rows} training rows that it has not seen (cross-validation) than the "
                f"model, which was trained on them: it scores {scores[0]}, the model {scores[1]}."
            )
        message, evidence = _with_categories(message, evidence, context)
        severity = Severity.WARNING if gap >= self.threshold("noticed") else Severity.INFO
        most = gap >= self.threshold("noticed") and gap > _HALF * (simple.score - simple.trivial)
        severity = Severity.ERROR if most or gap >= self.threshold("gap") else severity
        return self.finding(severity, _CONFIDENCE, message, evidence)

    def _watched(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if simple models do better on rows they have not seen than the network on any."""
        lead = lead_of_simple_model(history, context)
        if lead is None or lead.gap < self.threshold("noticed"):
            return None
        simple, result = lead.simple, outcome(history, context)
        evidence = {"score": result.score, "simple_score": simple.score, "simple_gap": lead.gap}
        evidence |= {"trivial_score": simple.trivial, "held_out_rows": float(simple.rows)}
        distinct, fitted = (context.asked.get(name, math.nan) for name in ("simple_distinct", "simple_rows"))
        rows = f"{fitted:.0f} sampled rows scores {about(simple.score, 3)} on {simple.rows} other ones"
        if not math.isnan(distinct):
            rows = f"the {distinct:.0f} different rows of the data scores {about(simple.score, 3)} on them"
        name = f"{simple.name[0].upper()}{simple.name[1:]}"
        message = f"{name} that was fitted on {rows}; the training ended where {result.words}."
        message, evidence = _with_categories(message, evidence, context)
        severity = Severity.ERROR if lead.gap >= self.threshold("gap") else Severity.INFO  # as rows are not the same
        return self.finding(severity, _CONFIDENCE, message, evidence)

    def _in_training(self, context: TaskContext) -> Finding | None:
        """Report as a fact that a training was judged on its training rows."""
        if not context.asked.get("judged_in_training"):
            return None
        evidence = {name: context.asked[name] for name in sorted(_CONSTANT_NEEDS & set(context.asked))}
        message = (
            f"There are too few validation rows to judge by: {_rows(evidence)} the score is "
            f"{about(evidence['metric_score'], 3)}, that of the best constant prediction "
            f"{about(evidence['constant_score'], 3)}."
        )
        return self.finding(Severity.INFO, 0.9, message, evidence)


def _with_categories(message: str, evidence: dict[str, float], context: TaskContext) -> tuple[str, dict[str, float]]:
    """Add that the simple models take whole numbers as categories, if they do so to their gain."""
    facts = {name: context.asked[name] for name in sorted(_CATEGORIES & set(context.asked))}
    simple = best_simple_model(context)
    linear = simple is not None and simple.score == context.asked.get("linear_score")
    if len(facts) < len(_CATEGORIES) or not linear or context.asked.get("simple_crossed"):
        return message, evidence
    column, columns, levels = facts.values()
    others = f", and {columns - 1:.0f} more" if columns > 1 else ""
    message += (
        f" It takes the {levels:.0f} whole numbers in column {column:.0f} of the inputs{others} as categories, without "
        "an order: encode them as one-hot columns, or with an embedding."
    )
    return message, evidence | facts


def _rows(evidence: dict[str, float]) -> str:
    if "judged_rows" not in evidence:
        return "by the values that the loop reports,"
    kind = "training" if evidence.get("judged_in_training") else "validation"
    return f"on {evidence['judged_rows']:.0f} {kind} rows"
