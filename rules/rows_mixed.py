"""AT211: a row whose output depends on the other rows of its batch."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["RowsMixed"]

_NAMES = ("row_effect", "row_noise", "row_effect_without_norm", "row_order_effect")
_SEQUENCES = ("embedding", "attention", "recurrent")


class RowsMixed(Rule):
    """Another row of the batch, or of the batch before, changes the output of a row.

    What it does
        On a copy of the model in evaluation mode, replaces one row of a batch, and compares the outputs of all others.
        If they change, it repeats that without batch normalization, and with the rows in another order. While a model
        trains (PyTorch), compares the input of a recurrent layer or of attention that takes time first with that of the
        model.

    Why it hurts
        Rows are separate samples. A softmax or a mean over the batch axis, a reshape or transpose that exchanges the
        axes of batch and time, or ``batch_first`` that was left out mix them: predictions depend on which rows happen
        to be in the same batch, and the model is trained on that.

    Evidence used
        The largest change of the outputs of the other rows, relative to the change of the row that was replaced, the
        rounding error in the same unit, and the same without batch normalization; the change if the rows come in
        another order; the outcome; and whether the loss is a standard one, which takes each row by itself.

    Thresholds
        ``effect``: relative change of the other rows; ``good_score``: skill from which it is a warning.

    When it is wrong
        Some models mix rows by design: a set of rows that attend to each other (set transformers, attention between
        samples, in retrieval over a batch), a minibatch discriminator, experts of limited capacity. So it is a warning
        where the model does well; and where it takes the batch for a set, whose order does not matter, unless it is a
        model of sequences with a standard loss, which has another axis to attend over, or does poorly. A square matrix
        of scores of rows with each other is left out, and so are graphs whose nodes are the rows. Batch normalization
        with the statistics of the batch in evaluation mode is a warning: it may be meant. If the layout of the inputs
        is unknown, as time may come first, nothing is reported. A callback may reset the states of stateful layers
        after each batch: if the model learns, shuffled rows are only a fact.

    Repairs
        Advice only: check the axes of softmax, mean, reshape and transpose, and ``batch_first``.

    References
        Karpathy, A Recipe for Training Neural Networks, 2019 (backpropagation to chart dependencies); Lee et al., Set
        Transformer, ICML 2019; Kossen et al., Self-Attention Between Datapoints, NeurIPS 2021 (where it is meant).
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
    needs = OUTCOME_NEEDS | frozenset({*_NAMES, "state_of_shuffled_rows", "mixed_rows", "mixed_rows_layer"})
    static = True
    THRESHOLDS = thresholds(
        effect=Threshold(1e-3, "relative change of other rows", "a hundred times rounding in single precision"),
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _NAMES}
        effect, noise, without, order = evidence.values()
        if not effect > max(noise, self.threshold("effect")):
            return self._misplaced(history, context) or self._carried(history, context)
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
        result = outcome(history, context)
        advice = "check the axes of softmax, mean, reshape and transpose, and batch_first"
        if result.learned(self.threshold("good_score")):
            advice += ", unless rows are meant to see each other"
            return self.finding(Severity.WARNING, 0.7, f"{message}; {advice}.", evidence)
        as_set = order <= self.threshold("effect")
        message += ", in any order" if as_set else f", and their order by {order:.2g}" if order > 0 else ""
        sequences = any(layer.kind in _SEQUENCES for layer in context.layers)
        own = context.loss.own and context.loss.name != "none"
        may_be_meant = as_set and (own or not sequences)
        poor = result.known and result.stuck(0.2) and not result.moving() and result.mature(0.5)
        if not may_be_meant:
            return self.finding(Severity.ERROR, 0.92, f"{message}; {advice}.", evidence)
        if poor:
            return self.finding(result.worst, 0.85, f"{message}, and {result.words}; {advice}.", evidence)
        return self.finding(Severity.WARNING, 0.7, f"{message}; {advice}, unless this is meant.", evidence)

    def _misplaced(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if a layer that takes time first gets rows there, or a mixture of them."""
        kind, row = (context.asked.get(name, math.nan) for name in ("mixed_rows", "mixed_rows_layer"))
        if not kind >= 1 or not 0 <= row < len(history.layers):
            return None
        result = outcome(history, context)
        layer = history.layers[int(row)].name
        if kind == 1:
            message = (
                f"Layer {layer} takes time on the first axis, but gets the rows of the batch there: each row is read "
                "as a time step of one sequence. Set batch_first=True, or exchange the first two axes"
            )
        else:
            message = (
                f"The input of layer {layer} has the values of the model's input, but each of its rows mixes several: "
                "exchange axes with transpose or permute, which view and reshape do not"
            )
        poor = result.known and result.stuck(0.2) and not result.moving() and result.mature(0.25)
        severity = result.worst if poor else Severity.WARNING
        message += f"; {result.words}." if severity is Severity.ERROR and result.words else "."
        evidence = {"mixed_rows": kind, "skill": result.skill}
        return self.finding(severity, 0.92 if poor else 0.7, message, evidence, layers=(layer,))

    def _carried(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if recurrent layers begin each batch with the state that shuffled, other rows have left."""
        if context.asked.get("state_of_shuffled_rows") != 1:
            return None
        result = outcome(history, context)
        if result.learned(self.threshold("good_score")):
            severity, confidence = Severity.INFO, 0.6
        elif result.known and result.mature(0.5):
            severity, confidence = result.worst, 0.85
        else:
            severity, confidence = Severity.WARNING, 0.7
        message = (
            "A stateful recurrent layer begins each batch with the state that the batch before has left, but rows are "
            "shuffled: it is the state of other sequences"
        )
        message += f"; {result.words}" if severity is Severity.ERROR and result.words else ""
        message += ". Use stateful=False, or batches in order (shuffle=False) and reset_state() before each sequence."
        return self.finding(severity, confidence, message, {"skill": result.skill})
