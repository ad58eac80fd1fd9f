"""AT511: validation rows that differ from training rows in classes or scale."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_accuracy
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import recent
from autotrainer.rules._shared.words import about

__all__ = ["ValidationMismatch"]

_Z = 5.0
"""Normal quantile of the test of the classes beyond which a difference is not sampling."""

_CHANCE, _FEW_CLASSES = 0.2, 20
"""Share of the accuracy of random guesses (one of the number of classes) up to which hardly any prediction is right,
and the most classes for which that counts: a model that overfits usually guesses. Of more classes, random guesses may
all be wrong."""

_EVALUATIONS, _FELL, _LEARNED = 5, 0.8, 0.3
"""Evaluations in which hardly any prediction is right, training loss ÷ that at the start up to which it fell, and skill
on training data that proves that classes are predicted, as in `overfitting`."""

_MOST_UNITS, _ROWS_A_UNIT = 100, 20
"""Most output units among which one without training rows is noticed, and fewest sampled rows for each: a class of its
fair share is missed by chance once in e²⁰ times."""

_GAP = 0.1
"""Accuracy in training − in validation from which the rows of an absent class are a likely reason."""

_FEW_EVALUATIONS = 3
"""Fewest validation accuracies."""


class ValidationMismatch(Rule):
    """The validation rows are not like the training rows: other classes, another scale, another distribution.

    What it does
        Compares the validation data with the training data, where both are arrays: classes that no training row has,
        scale and offset of the inputs, and the distributions of inputs and of numeric targets. In a watched training,
        where validation rows are not seen, compares the classes of the sampled training rows with the output units, and
        the accuracies in training and in validation.

    Why it hurts
        The validation score then says nothing about the training. A class that is not trained on can't be predicted,
        and a model that was trained on standardized inputs fails on raw ones. Whoever stops or selects by this score,
        a person or a repair, acts on noise. A common cause in Keras: ``validation_split`` takes the last rows *before*
        shuffling, so rows that are sorted by class give validation data of other classes.

    Evidence used
        Share of validation rows whose class no training row has; total variation distance of the class shares, with a
        χ² test of homogeneity; medians over the features of standard deviation and offset relative to the training
        rows; the largest Kolmogorov–Smirnov distance of a feature, with Bonferroni correction, and that of the targets.
        A validation accuracy of 0 in five evaluations or more, while the training loss fell.

    Thresholds
        ``unseen``: share of validation rows of unseen classes that is an error. ``shares``: distance of the class
        shares that is one; so is a single class, where the training rows have several. ``scale``: factor between the
        standard deviations that is an error; so are means that are three times as many standard deviations apart.
        ``shift``: distance of classes, of a feature or of the targets, beyond sampling, that is a warning.

    When it is wrong
        Validation on later times, other places or other persons on purpose: a shift of the inputs is at most a warning,
        and so are balanced training classes with natural validation classes. Zero-shot learning has unseen classes.

    Repairs
        Advice only: shuffle before splitting, stratify by class, and transform both data sets with the numbers of the
        training data.

    References
        Kapoor and Narayanan, Leakage and the Reproducibility Crisis, Patterns 2023; Rabanser, Günnemann and Lipton,
        Failing Loudly, NeurIPS 2019 (univariate tests with Bonferroni correction); Wilson and Hilferty, PNAS 1931.
    """

    problem = "validation_mismatch"
    code = "AT511"
    aliases = ("distribution_shift", "dataset_shift", "covariate_shift", "validation_shift", "unseen_classes")
    phrases = (
        "validation accuracy is zero",
        "validation split of sorted data",
        "validation has different classes",
        "scaled training data but not validation data",
        "validation data look different",
    )
    needs = OUTCOME_NEEDS | frozenset(
        {
            "distinct_rows",
            "unseen_classes", "unseen_class_share", "unseen_class", "absent_class_share", "class_shift",
            "class_shift_z", "validation_classes",
            "validation_scale", "validation_offset", "shifted_feature", "feature_shift",
            "feature_shift_noise", "target_shift",
        }
    )  # fmt: skip
    causes = ("nonfinite_data",)
    THRESHOLDS = thresholds(
        unseen=Threshold(0.1, "share of rows of unseen classes that is an error", "bound on the score", maximum=1),
        shares=Threshold(
            0.75, "distance of the class shares that is an error", "balanced against 3:1 is 0.25", maximum=1
        ),
        scale=Threshold(10, "factor between standard deviations that is an error", "convention", 1),
        shift=Threshold(0.5, "distance of distributions that is a warning", "half of the rows differ", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        facts = {name: context.asked[name] for name in sorted(self.needs & set(context.asked))}
        if context.kind(history.targets) == "regression":  # whole numbers may be counts
            facts = {name: value for name, value in facts.items() if "class" not in name}
        return (
            self._by_classes(facts)
            or self._by_shares(facts)
            or self._by_scale(facts)
            or self._never_right(history, context)
            or self._by_distribution(facts)
            or self._by_output_units(history, context)
        )

    def _by_output_units(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find output units without training rows, in a network that does worse in validation than in training."""
        targets, units = history.targets, context.output_units or 0
        absent = units - targets.classes
        if context.managed or context.kind(targets) != "multiclass" or not 0 < absent < targets.classes:
            return None
        rows = min([targets.rows, *_different_rows(history)])
        if units > _MOST_UNITS or rows < _ROWS_A_UNIT * units or targets.masked or targets.rank > 2:
            return None
        if not targets.one_hot and targets.minimum > 0:
            return None  # counted from 1, or the first unit is for padding or for none of the classes
        accuracies = history.scalar("accuracy")[recent(history.steps)]
        validation = held_out_accuracy(history, context)
        if len(history.epochs("val_accuracy")[1]) < _FEW_EVALUATIONS or not np.isfinite(accuracies).any():
            return None
        training = float(np.nanmean(accuracies))
        result = outcome(history, context)
        if not training - validation >= _GAP or not result.mature(0.5):
            return None
        classes = "one class" if absent == 1 else f"{absent} classes"
        message = (
            f"None of {rows:.0f} sampled training rows is of {classes} that the output has a unit for, and "
            f"accuracy is {training:.3g} in training and {validation:.3g} in validation: shuffle the rows before they "
            "are split, or stratify by class."
        )
        evidence = {"absent_classes": float(absent), "accuracy": training, "validation_accuracy": validation}
        return self.finding(result.worst, 0.75, message, evidence)

    def _by_classes(self, facts: dict[str, float]) -> Finding | None:
        unseen, share = facts.get("unseen_classes", 0.0), facts.get("unseen_class_share", 0.0)
        if not share > 0 or facts["class_shift_z"] <= _Z:
            return None
        evidence = {name: value for name, value in facts.items() if "class" in name and not math.isnan(value)}
        classes = f"class {facts['unseen_class']:g}" if unseen == 1 else f"{unseen:.0f} classes"
        message = (
            f"{share:.1%} of the validation rows are of {classes} that no training row has: shuffle the rows before "
            "they are split, or stratify by class."
        )
        severity = Severity.ERROR if share >= self.threshold("unseen") else Severity.WARNING
        return self.finding(severity, 0.95, message, evidence)

    def _by_shares(self, facts: dict[str, float]) -> Finding | None:
        """Find that nearly all validation rows are of classes that are rare in training."""
        shift, single = facts.get("class_shift", 0.0), facts.get("validation_classes") == 1
        if not (shift >= self.threshold("shares") or single) or facts["class_shift_z"] <= _Z:
            return None
        evidence = {name: value for name, value in facts.items() if "class" in name}
        classes = "of one class" if single else "of other classes than most training rows"
        message = (
            f"The validation rows are {classes}: the shares of the classes differ by {shift:.1%} from those in "
            "training; shuffle the rows before they are split, or stratify by class."
        )
        return self.finding(Severity.ERROR, 0.9, message, evidence)

    def _by_scale(self, facts: dict[str, float]) -> Finding | None:
        scale, offset = facts.get("validation_scale", math.nan), facts.get("validation_offset", math.nan)
        limit = self.threshold("scale")
        if not (scale >= limit or scale <= 1 / limit or offset >= 3 * limit):
            return None
        message = (
            f"The inputs of the validation rows have another scale than those of the training rows: the median feature "
            f"has {about(scale, 3)} times the standard deviation, and its mean is {about(offset, 3)} standard "
            "deviations away; transform both with the numbers of the training data."
        )
        return self.finding(Severity.ERROR, 0.9, message, {"validation_scale": scale, "validation_offset": offset})

    def _never_right(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Find that hardly any prediction for validation rows is right: less than random guesses would be."""
        accuracies, kind = history.epochs("val_accuracy")[1], context.kind(history.targets)
        few = history.targets.classes <= _FEW_CLASSES
        accuracies = accuracies[-max(_EVALUATIONS, len(accuracies) // 2) :] if few else accuracies
        if len(accuracies) < _EVALUATIONS or kind in ("regression", "multilabel"):
            return None
        highest, chance = float(accuracies.max()), 1 / max(history.targets.classes, 2)
        if not highest <= (_CHANCE * chance if few else 0.0):
            return None
        losses = history.losses[1][np.isfinite(history.losses[1])]
        first, last = losses[:_EVALUATIONS], losses[-_EVALUATIONS:]
        if len(losses) < 2 * _EVALUATIONS or not np.median(last) <= _FELL * np.median(first):
            return None
        result = outcome(history, context)
        message = (
            f"Validation accuracy is at most {about(highest, 2)} in the last {len(accuracies)} evaluations, where "
            f"random guesses would reach {about(chance, 2)}, while the training loss fell from "
            f"{about(float(np.median(first)), 3)} to {about(float(np.median(last)), 3)}: the validation rows are of "
            "other classes, their labels are encoded in another way, or accuracy does not suit the targets."
        )
        evidence = {
            "val_accuracy": highest,
            "chance": chance,
            "evaluations": float(len(accuracies)),
            "skill": result.skill,
        }
        severity = Severity.ERROR if result.learned(_LEARNED) else Severity.WARNING
        return self.finding(severity, 0.9 if severity is Severity.ERROR else 0.6, message, evidence)

    def _by_distribution(self, facts: dict[str, float]) -> Finding | None:
        limit = self.threshold("shift")
        shift, noise = facts.get("feature_shift", 0.0), facts.get("feature_shift_noise", math.inf)
        parts, evidence = [], {}
        if facts.get("class_shift", 0.0) >= limit and facts["class_shift_z"] > _Z:
            evidence["class_shift"] = facts["class_shift"]
            parts.append(f"the shares of their classes differ by {facts['class_shift']:.1%}")
        if facts.get("target_shift", 0.0) >= limit:
            evidence["target_shift"] = facts["target_shift"]
            parts.append(f"the distributions of their targets differ by {facts['target_shift']:.1%}")
        if shift >= limit and shift > noise:
            evidence |= {"feature_shift": shift, "shifted_feature": facts["shifted_feature"]}
            parts.append(f"the distributions of input feature {facts['shifted_feature']:.0f} by {shift:.1%}")
        if not parts:
            return None
        message = f"The validation rows differ from the training rows beyond sampling: {', and '.join(parts)}."
        return self.finding(Severity.WARNING, 0.7, message, evidence)


def _different_rows(history: RunHistory) -> Floats:
    """Return how many of the sampled rows have different inputs, as one value; none if it is unknown."""
    counts = history.scalar("distinct_rows")
    return counts[np.isfinite(counts)][-1:]
