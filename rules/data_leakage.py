"""AT506: validation data that are also training data."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["DataLeakage"]

_FACTS = ("shared_inputs", "shared_input_share", "expected_shared_share")


class DataLeakage(Rule):
    """Rows of the validation data are also in the training data.

    What it does
        Compares the inputs of both data sets value by value in a managed training: arrays completely, loaders and
        streams by their first 5,000 rows, so that only part of what longer ones share is detected.

    Why it hurts
        A model remembers what it was trained on. The validation score is then better than the score on new data, and
        whoever selects by it, a person or a repair, selects what remembers best.

    Evidence used
        The share of distinct validation inputs that are bitwise equal to a training input, and the same share between a
        part of the training data and the rest of it. Inputs with few possible values are equal by chance, and that
        second share shows how often. Where a column holds a measured quantity that practically never occurs twice,
        chance produces no equal rows.

    Thresholds
        ``share``: shared rows beyond chance from which this is an error, since the score can be too good by that much.
        ``noticed``: such a share from which it is a warning. ``rows``: fewest shared rows beyond chance.

    When it is wrong
        Validating on the training data on purpose, to see whether a model can fit them at all. Only `fit` has both data
        sets. Some leaks go undetected: rows that are nearly equal, rows that belong to one patient or one film, and
        rows that are changed at random as they are read (augmentation), which are never bitwise equal.

    Repairs
        Advice only: remove the shared rows from one of the two data sets, and split before rows are copied or
        oversampled.

    References
        Kapoor and Narayanan, Leakage and the Reproducibility Crisis, Patterns 2023; Barz and Denzler, Do We Train on
        Test Data?, J. Imaging 2020 (3.3 % of CIFAR-10's test images, 10 % of CIFAR-100's).
    """

    problem = "data_leakage"
    code = "AT506"
    aliases = ("leakage", "leak", "duplicates", "train_test_overlap", "contamination")
    phrases = (
        "validation accuracy too good to be true",
        "suspiciously high accuracy",
        "validation accuracy is 100%",
        "same samples in train and test",
        "duplicates in train and test data",
        "good validation score but bad on new data",
    )
    needs = frozenset(_FACTS)
    THRESHOLDS = thresholds(
        share=Threshold(0.05, "share of shared rows beyond chance that is an error", "bound on the score", maximum=1),
        noticed=Threshold(0.01, "share of shared rows beyond chance worth a look", "below CIFAR-10's 3.3 %", maximum=1),
        rows=Threshold(10, "shared rows beyond chance, at least", "a few occur: Iris holds a pair"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _FACTS}
        shared, share, chance = evidence.values()
        if not share > 0 or math.isnan(chance):
            return None
        beyond = share - chance
        distinct = shared / share
        noise = 2 * math.sqrt(chance * (1 - chance) / distinct)
        if beyond < self.threshold("noticed") or beyond * distinct < self.threshold("rows") or beyond <= noise:
            return None
        expected = f"; chance explains {chance:.1%}" if chance >= 0.001 else ""
        message = (
            f"The validation score can be too good: {shared:.0f} of {distinct:.0f} distinct validation inputs "
            f"({share:.1%}) are also in the training data{expected}."
        )
        severity = Severity.ERROR if beyond >= self.threshold("share") else Severity.WARNING
        return self.finding(severity, 0.9, message, evidence)
