"""AT506: validation data that are training data too."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["DataLeakage"]

_FACTS = ("shared_inputs", "shared_input_share", "expected_shared_share")


class DataLeakage(Rule):
    """Rows of the validation data are rows of the training data.

    What it does
        Compares the inputs of both, value for value, in a managed training: arrays whole, and the first 5,000 rows of
        loaders and streams, so that of a longer one only a part of what is shared is seen.

    Why it hurts
        What was trained on is remembered: the validation score is better than the one on new data, and whoever chooses
        by it, a person or a repair, chooses what remembers best.

    Evidence used
        The share of different validation inputs that are training inputs too, equal to the bit; the same share between
        a part of the training data and the rest of it. Inputs of few possible values are equal by chance, and such a
        part shows how often; where a column holds a measured quantity that practically never occurs twice, chance
        makes no equal rows.

    Thresholds
        ``share`` beyond chance from which it is an error: by so much the score can be too good; ``noticed`` from which
        it is a warning; ``rows`` shared beyond chance, at least.

    When it is wrong
        Validation on the training data on purpose, to see whether a model can fit them at all. Rows that are nearly
        equal, or belong to one patient or one film, are leaks that this does not see. Only `fit` has both data sets.
        Rows that are changed at random as they are read (augmentation) are equal to none.

    Repairs
        Advice only: take the shared rows out of one of the two, and split before rows are copied or oversampled.

    References
        Kapoor and Narayanan, Leakage and the Reproducibility Crisis, Patterns 2023; Barz and Denzler, Do We Train on
        Test Data?, J. Imaging 2020 (3.3 % of CIFAR-10's test images, 10 % of CIFAR-100's).
    """

    problem = "data_leakage"
    code = "AT506"
    aliases = ("leakage", "leak", "duplicates", "train_test_overlap", "contamination")
    needs = frozenset(_FACTS)
    THRESHOLDS = thresholds(
        share=Threshold(0.05, "shared share beyond chance that is an error", "bound on the score", maximum=1),
        noticed=Threshold(0.01, "shared share beyond chance worth a look", "below CIFAR-10's 3.3 %", maximum=1),
        rows=Threshold(10, "shared rows beyond chance, at least", "fewer happen: Iris holds a pair"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Judge what is known of the data."""
        evidence = {name: context.asked.get(name, math.nan) for name in _FACTS}
        shared, share, chance = evidence.values()
        if not share > 0 or math.isnan(chance):
            return None
        beyond = share - chance
        different = shared / share
        noise = 2 * math.sqrt(chance * (1 - chance) / different)
        if beyond < self.threshold("noticed") or beyond * different < self.threshold("rows") or beyond <= noise:
            return None
        expected = f", where chance would make {chance:.1%}" if chance >= 0.001 else ""
        message = (
            f"{shared:.0f} of {different:.0f} different validation inputs ({share:.1%}) are in the training data "
            f"too{expected}: the validation score can be too good by as much."
        )
        severity = Severity.ERROR if beyond >= self.threshold("share") else Severity.WARNING
        return self.finding(severity, 0.95, message, evidence)
