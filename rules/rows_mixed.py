"""AT211: a row whose output depends on the other rows of its batch."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["RowsMixed"]

_NAMES = ("row_effect", "row_noise", "row_effect_without_norm")


class RowsMixed(Rule):
    """Another row of the batch changes the output of a row in evaluation mode.

    What it does
        On a copy of the model in evaluation mode, replaces one row of a batch, and compares the outputs of all others.
        If they change, it repeats that without batch normalization.

    Why it hurts
        Rows are separate samples. A softmax or a mean over the batch axis, a reshape or transpose that exchanges the
        axes of batch and time, or ``batch_first`` that was left out mix them: predictions depend on which rows happen
        to be in the same batch, and the model is trained on that.

    Evidence used
        The largest change of the outputs of the other rows, relative to the change of the row that was replaced, the
        rounding error in the same unit, and the same without batch normalization.

    Thresholds
        ``effect``: relative change of the other rows.

    When it is wrong
        Models that compare the rows of a batch (contrastive scores of each row with each other, a minibatch
        discriminator, experts of limited capacity, a graph whose rows are nodes) mix them by design; a square matrix of
        scores is left out. Batch
        normalization with the statistics of the batch in evaluation mode is a warning: it may be meant. If the layout
        of the inputs is unknown, as time may come first, nothing is reported.

    Repairs
        Advice only: check the axes of softmax, mean, reshape and transpose, and ``batch_first``.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019 (backpropagation to chart dependencies).
    """

    problem = "rows_mixed"
    code = "AT211"
    aliases = ("batch_mixing", "mixed_rows", "batch_leak", "batch_first")
    phrases = (
        "rows of the batch influence each other",
        "prediction depends on the other samples in the batch",
        "softmax over the batch axis",
        "batch first forgotten",
        "results change with the batch size",
    )
    needs = frozenset(_NAMES)
    static = True
    THRESHOLDS = thresholds(
        effect=Threshold(1e-3, "relative change of other rows", "a hundred times rounding in single precision"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _NAMES}
        effect, noise, without = evidence.values()
        if not effect > max(noise, self.threshold("effect")):
            return None
        message = (
            "The output of a row depends on the other rows of its batch: replacing one row changes the others by "
            f"{effect:.2g} of its own change"
        )
        if without == 0:
            message += (
                ", since batch normalization uses the statistics of the batch in evaluation mode; keep running "
                "statistics, and evaluate with them."
            )
            return self.finding(Severity.WARNING, 0.85, message, evidence)
        message += "; check the axes of softmax, mean, reshape and transpose, and batch_first."
        return self.finding(Severity.ERROR, 0.92, message, evidence)
