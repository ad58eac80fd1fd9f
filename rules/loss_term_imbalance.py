"""AT414: one of several terms of the loss that is not finite, never changes, or is minimized in place of another."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import REMAINDER, Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, lead_of_simple_model
from autotrainer.rules._shared.layers import shrunk_norms
from autotrainer.rules._shared.loss_terms import Terms, first_nonfinite, has_objective, quoted
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import theil_sen
from autotrainer.rules._shared.words import about

__all__ = ["LossTermImbalance"]

_MIN_SAMPLES = 8
"""Fewest sampled steps that show whether a term changes, and which term outweighs the others."""

_EQUAL = {"pytorch": 1e-6}
"""Range of a term ÷ the size of the loss up to which it is constant: about ten times the precision of float32."""

_EQUAL_MEANS = 1e-4
"""The same where it is computed from running means, whose differences are less precise."""

_VARIES = 1e-2
"""Range of another term ÷ its size that shows that the steps had different batches, or changed the model."""

_FALLEN = 0.9
"""Median of the last quarter of the samples ÷ that of the first one up to which a term has improved."""

_VANISHED = 0.05
"""Size of terms ÷ that at the start, and ÷ that of the term with the targets, up to which they are minimized."""

_TRIVIAL = 0.1
"""R² up to which outputs that no longer depend on the inputs may seem better than the mean, by that of each value."""

_SHRUNK = 0.5
"""Norm of the weights ÷ that at the start up to which penalties have shrunk them, as in `insufficient_capacity`."""

_HALVED = 0.5
"""The same from which the terms of a model with a poor outcome have not been learned."""

_RISEN = 10.0
"""The same from which the smaller terms have got worse, whatever the outcome."""

_BEHIND = 0.1
"""Score of a simple model less that of the network from which the outcome is poor, as in `worse_than_simple_model`."""

_SAME = 1e-2
"""Relative difference up to which a term is the loss whose outputs and targets are measured."""


class LossTermImbalance(Rule):
    """One of several terms of the loss is not finite, never changes, or is minimized in place of the others.

    What it does
        Follows the terms of the loss by name, and compares them with each other.

    Why it hurts
        A term that is not finite makes the whole loss so. A term that never changes has no effect. And a term that
        outweighs all others determines the gradient alone: the others are not learned, although they are computed. A
        divergence or penalty at its minimum, while outputs are no better than a constant, has been minimized in place
        of the error: the outputs of a variational autoencoder no longer depend on its inputs (posterior collapse).

    Evidence used
        The terms of sampled steps: those that ``monitor.log(losses={"name": value})`` reports; in PyTorch otherwise
        those of a sum of common loss functions in the autograd graph, and what remains of it; in Keras the losses of
        several outputs, penalties on weights and activations, and the means that a step of the user's returns. If the
        loss becomes NaN or infinite, the first step in which a term is not finite. Whether the smaller terms fall, and
        the outcome.

    Thresholds
        ``ratio``: the largest term ÷ the sum of all others; ``share`` of the sampled steps in which it is as large;
        ``good_score`` from which an imbalance is only a fact.

    When it is wrong
        A small penalty may be meant to be small, and a term may be switched off on purpose: if the largest term is the
        loss by which outputs are compared with targets, or if the model is good, it is a fact, and so is a term that is
        always zero. Terms that also take values below zero, as the objective of a policy, are not compared by size.
        While the outcome is unknown, it is also a fact if the largest term falls, or no longer outweighs
        the others: the divergence of a variational autoencoder begins at zero.

    Repairs
        Standardized targets, if there are several outputs and the targets of one are far from unit scale (Keras). By
        hand: weight the terms so that each of them begins at a similar size, scale targets that have another unit, or
        compute the term that never changes from tensors that require gradients.

    References
        Bowman et al., CoNLL 2016 (arXiv 1511.06349, posterior collapse); Kendall, Gal and Cipolla, CVPR 2018 (weighing
        losses); Chen et al., GradNorm, ICML 2018.
    """

    problem = "loss_term_imbalance"
    code = "AT414"
    aliases = ("loss_terms", "loss_weights", "unbalanced_losses", "nan_loss_term")
    phrases = (
        "one loss term dominates",
        "multiple losses different scale",
        "loss weights not balanced",
        "auxiliary loss too large",
        "kl term is nan",
        "posterior collapse",
        "vae outputs the same image",
        "loss term is constant",
    )
    needs = OUTCOME_NEEDS | SIMPLE_NEEDS | {"weight_norm"}
    causes = ("nonfinite_data", "unscaled_targets")
    repairs = ("scale_each_target",)
    place = "loss"
    THRESHOLDS = thresholds(
        ratio=Threshold(1e3, "largest term ÷ sum of the others, at least", "catalogue", 1.0),
        share=Threshold(0.25, "share of the sampled steps, at least", "a term may fall below it later", maximum=1.0),
        good_score=Threshold(0.5, "skill from which it is a fact", "halfway to a perfect score", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.term_names) < 2:
            return None
        return (
            self._nonfinite(history)
            or self._dominated(history, context)
            or self._minimized(history, context)
            or self._constant(history, context)
        )

    def _nonfinite(self, history: RunHistory) -> Finding | None:
        first = first_nonfinite(history)
        if first is None:
            return None
        step, names = first
        lost = bool(np.isinf(history.losses[1][-1:]).any())
        lasting = lost or any(np.isinf(history.term(name)[1][-1:]).any() for name in names)
        others = "the other one is" if len(history.term_names) - len(names) == 1 else "others are"
        message = f"Of the terms of the loss, {quoted(names)} is NaN or infinite at step {step}, while {others} finite."
        severity, confidence = (Severity.ERROR, 0.95) if lasting else (Severity.WARNING, 0.6)
        evidence = {"first_step": float(step), "terms": float(len(history.term_names))}
        return self.finding(severity, confidence, message, evidence)

    def _constant(self, history: RunHistory, context: TaskContext) -> Finding | None:
        terms = Terms.of(history)
        if len(terms.values) < _MIN_SAMPLES:
            return None
        size = np.abs(terms.values).max(axis=0)
        extent = np.ptp(terms.values, axis=0)
        equal = _EQUAL.get(context.framework, _EQUAL_MEANS) * np.abs(terms.values).sum(axis=1).max()
        varies = extent > np.maximum(_VARIES * size, 100 * equal)
        steady = [not (trend.falling or trend.rising) for trend in (theil_sen(terms.steps, v) for v in terms.values.T)]
        constant = np.flatnonzero((extent <= np.minimum(equal, _VARIES * size)) & steady)
        if not len(constant) or not varies.any() or not outcome(history, context).mature(0.1):
            return None
        index = int(constant[np.argmax(size[constant])])
        value, zero = float(terms.values[-1, index]), size[index] == 0
        others = [name for name, changes in zip(terms.names, varies, strict=True) if changes]
        message = (
            f"The term “{terms.names[index]}” of the loss has been {about(value, 4) if not zero else 0} in all "
            f"{len(terms.values)} sampled steps, while “{others[0]}” changes: it has no effect on the training."
        )
        evidence = {"value": value, "samples": float(len(terms.values))}
        return self.finding(Severity.INFO if zero else Severity.WARNING, 0.7, message, evidence)

    def _dominated(self, history: RunHistory, context: TaskContext) -> Finding | None:
        terms = Terms.of(history)
        if len(terms.values) < _MIN_SAMPLES:
            return None
        sizes = np.abs(terms.values)
        largest = int(np.argmax(np.median(sizes, axis=0)))
        for index in {largest, int(np.argmax(np.median(sizes[: max(1, len(sizes) // 4)], axis=0)))}:
            others = np.delete(sizes, index, axis=1)
            rest = others.sum(axis=1)
            if has_objective(np.delete(terms.values, index, axis=1)):
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                ratios = np.where(rest > 0, sizes[:, index] / rest, 0.0)
            share = float((ratios >= self.threshold("ratio")).mean())
            if share >= self.threshold("share"):
                return self._judge(history, context, terms, index, ratios, share)
        return None

    def _minimized(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if all terms but that with the targets have vanished, and that one is at the trivial level.

        A divergence or penalty at its minimum shows that the model has given up on the targets for it: the outputs of
        a variational autoencoder no longer depend on its inputs (posterior collapse).
        """
        terms, result = Terms.of(history), outcome(history, context)
        main = _measured_term(history, context, terms)
        trivial = result.stuck() or (result.regression and result.high <= _TRIVIAL)
        if len(terms.values) < _MIN_SAMPLES or main is None or not trivial or not result.mature(0.3):
            return None
        if shrunk_norms(history) <= _SHRUNK:  # by penalties on the weights: another problem, insufficient capacity
            return None
        rest = np.abs(np.delete(terms.values, main, axis=1)).sum(axis=1)
        quarter = max(1, len(rest) // 4)
        first, last = float(rest[: max(1, quarter // 2)].max()), float(np.median(rest[-quarter:]))
        size = float(np.median(np.abs(terms.values[-quarter:, main])))
        if not (first > 0 and last <= _VANISHED * min(first, size)):
            return None
        others = [name for number, name in enumerate(terms.names) if number != main]
        what = "the other terms" if len(others) > 1 or others == [REMAINDER] else f"the term {quoted(others)}"
        message = (
            f"The loss is minimized by way of {what}, now {about(last / first)} of the value at the start, in place of "
            f"“{terms.names[main]}”, which compares outputs with targets: {result.words}. Lower the weight of {what}: "
            "sum or average both over the same values."
        )
        evidence = {"ratio": size / last if last else float("inf"), "rest_left": last / first, "score": result.score}
        return self.finding(result.worst, 0.85, message, evidence)

    def _judge(
        self, history: RunHistory, context: TaskContext, terms: Terms, index: int, ratios: Floats, share: float
    ) -> Finding:
        limit = self.threshold("ratio")
        lasts = bool(np.median(ratios[-max(1, len(ratios) // 4) :]) >= limit)
        ratio = float(np.median(ratios[ratios > 0] if lasts else ratios[ratios >= limit]))
        result = outcome(history, context)
        sizes = np.abs(terms.values)
        rest = np.delete(sizes, index, axis=1)
        neglected = [name for number, name in enumerate(terms.names) if number != index]
        main = neglected[int(np.argmax(np.median(rest, axis=0)))]
        falls, rest_falls = _change(sizes[:, index]) <= _FALLEN, _change(rest.sum(axis=1)) <= _FALLEN
        lead = lead_of_simple_model(history, context)
        behind = lead is not None and lead.gap >= _BEHIND
        severity = self._severity(result, falls=falls, change=_change(rest.sum(axis=1)), behind=behind)
        if _is_measured_loss(history, context, terms, index) or not (result.known or lasts):
            severity = Severity.INFO
        which = f"“{main}”" if len(neglected) == 1 else f"the others together, of which “{main}” is the largest"
        when = "is" if lasts else "was at first"
        message = f"The term “{terms.names[index]}” of the loss {when} {about(ratio)} times {which}"
        message += ", so it alone determines the gradient" if severity is not Severity.INFO else ""
        if severity is not Severity.INFO and result.words:
            message += f", while {result.words}"
        evidence = {"ratio": ratio, "share": share, "largest_falls": float(falls), "rest_falls": float(rest_falls)}
        return self.finding(severity, 0.8 if severity is Severity.ERROR else 0.6, message + ".", evidence)

    def _severity(self, result: Outcome, *, falls: bool, change: float, behind: bool) -> Severity:
        if result.known and result.mature(0.15):
            if change <= _HALVED or result.learned(self.threshold("good_score")):
                return Severity.INFO
            return result.worst if result.stuck() or behind else Severity.WARNING
        if change <= _FALLEN:
            return Severity.INFO
        if not result.mature(0.15) or (falls and change < _RISEN):
            return Severity.INFO
        return Severity.WARNING


def _change(values: Floats) -> float:
    """Return the median of the last quarter of values ÷ that of the first one."""
    quarter = max(1, len(values) // 4)
    before = float(np.median(values[:quarter]))
    return float(np.median(values[-quarter:])) / before if before > 0 else 1.0


def _measured_term(history: RunHistory, context: TaskContext, terms: Terms) -> int | None:
    """Return the index of the only term that compares outputs with targets; None if there are several, or none."""
    found = [index for index in range(len(terms.names)) if _is_measured_loss(history, context, terms, index)]
    return found[0] if len(found) == 1 else None


def _is_measured_loss(history: RunHistory, context: TaskContext, terms: Terms, index: int) -> bool:
    """Return whether a term is the loss that compares the measured outputs with their targets."""
    if context.loss.own:
        return False
    if terms.names[index] == context.loss.name:
        return True
    losses = history.data_losses[np.isin(history.steps, terms.steps)]
    if len(losses) != len(terms.values) or not np.isfinite(losses).any():
        return False
    values = terms.values[:, index]
    multiple = float(np.nanmedian(values) / np.nanmedian(losses)) if context.loss.weighted else 1.0  # as a sum is
    if not multiple:
        return False
    term, total = (np.nanmedian(np.abs(losses - each / multiple)) for each in (values, terms.values.sum(axis=1)))
    return bool(term <= _SAME * np.nanmedian(np.abs(losses)) and term < total)
