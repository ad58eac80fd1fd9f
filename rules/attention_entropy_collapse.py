"""AT206: attention that puts all its weight on single positions, or the same weight on all of them."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import is_pretrained, names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import finite, growth, last_median
from autotrainer.rules._shared.words import about

__all__ = ["AttentionEntropyCollapse"]

_SAMPLES = 5

_RISE = 1.5
"""Growth of the largest logit since the start that exceeds the noise between batches."""

_ONE_HEAD = 0.01
"""Entropy of one head, relative to the largest possible one, that is a selection of single positions; and the share of
the usual variation of logits, that of the median head or layer, up to which a head does not select at all. Heads of one
layer differ by less than half at initialization, as each is drawn from thousands of weights."""

_NOT_AT_ALL = 1e-4
"""Deviation of a head's logits up to which all its weights are equal in any network: they differ by 0.01 %."""

_OPEN = 0.3
"""Entropy of another head of the layer that shows that its inputs do not force a selection."""

_LATE = 0.9
"""Share of the schedule from which low entropy is an error if the model is not halfway to a perfect score."""

_HEADS = frozenset(
    {"head_entropy_min", "head_entropy_max", "head_logit_std_min", "head_logit_std", "narrowest_head", "widest_head"}
)


class AttentionEntropyCollapse(Rule):
    """Attention logits are so large that the softmax selects single positions, or so small that it selects nothing.

    What it does
        For each attention layer, measures the mean entropy of the attention weights of a query, relative to that of
        equal weights, and the largest logit before the softmax; for each of its heads, the entropy, and how much the
        logits of a query vary over its keys.

    Why it hurts
        A softmax that selects a single position passes back almost no gradient: queries and keys stop learning. Logits
        that grow without bound precede divergence of the loss, sooner at high learning rates. A head whose logits are
        all equal averages its inputs, whatever they are: its queries and keys are dead weight.

    Evidence used
        Median of entropy and largest logit over the last samples, growth of the largest logit since the start, and the
        outcome. For single heads, all samples from the first to the last, and the other heads of the layer, or the
        other layers: a head near the largest entropy is usual at first and in small networks, one whose logits vary a
        hundred times less than those of its siblings is not.

    Thresholds
        ``entropy``: mean entropy ÷ logarithm of the number of positions, at most; ``logit``: largest logit, if it
        rises; ``schedule``: share of the planned training from which a poor outcome makes it an error.

    When it is wrong
        Some tasks require attention to one position (the previous token, a separator): a model that has learned is not
        reported, and neither are single heads that select in a network that was trained before, where they are usual.
        It is an error only if the model stays at the level of the trivial predictor, ends far from a good score with
        such selections, or the loss diverges; otherwise, if the outcome is unknown, and for single heads, it is a
        warning.

    Repairs
        Normalized queries and keys, new initial weights, a lower learning rate, or a warm-up.

    References
        Zhai et al., Stabilizing Transformer Training by Preventing Attention Entropy Collapse, ICML 2023
        (arXiv 2303.06296); Dehghani et al., ViT-22B, ICML 2023 (2302.05442); Wortsman et al., Small-scale proxies for
        large-scale Transformer training instabilities, ICLR 2024 (2309.14322).
    """

    problem = "attention_entropy_collapse"
    code = "AT206"
    aliases = ("attention_collapse", "entropy_collapse", "attention_logits", "attention_logit_growth")
    phrases = (
        "attention collapses",
        "attention weights are one hot",
        "attention focuses on one token",
        "attention logits too large",
        "transformer training diverges",
        "attention scores explode",
    )
    needs = OUTCOME_NEEDS | frozenset({"attention_entropy", "attention_max_logit"}) | _HEADS
    causes = ("nonfinite_data", "abnormal_data", "unscaled_targets", "learning_rate_too_high", "exploding_gradient")
    repairs = ("clip_attention", "reinitialize", "scale_learning_rate", "clip_gradients", "warm_up_learning_rate")
    THRESHOLDS = thresholds(
        entropy=Threshold(0.1, "entropy of the attention weights ÷ the largest possible", "Zhai 2023", maximum=1),
        logit=Threshold(100, "largest attention logit", "Wortsman 2024"),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.steps) < _SAMPLES:
            return None
        table, logits = (finite(history.layer(name)) for name in ("attention_entropy", "attention_max_logit"))
        entropy, largest = last_median(table), last_median(logits)
        attention = [
            row for row in range(len(history.layers)) if not (np.isnan(entropy[row]) and np.isnan(largest[row]))
        ]
        narrow = [row for row in attention if entropy[row] <= self.threshold("entropy")]
        large = [
            row
            for row in attention
            if largest[row] >= self.threshold("logit") and growth(logits[:, row]) >= _RISE and row not in narrow
        ]
        affected = sorted([*narrow, *large])
        if not affected:
            return self._heads(history, context)
        result = outcome(history, context)
        if result.learned(0.5):
            return None
        poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
        over = bool(narrow) and result.known and result.mature(_LATE)
        severity = Severity.ERROR if result.diverged else (result.worst if poor or over else Severity.WARNING)
        worst = min(narrow, key=lambda row: float(entropy[row])) if narrow else max(large, key=lambda r: largest[r])
        evidence = {
            "entropy": float(entropy[worst]),
            "largest_logit": float(largest[worst]),
            "logit_growth": growth(logits[:, worst]),
            "affected_layers": float(len(affected)),
            "attention_layers": float(len(attention)),
        }
        return self._finding(history, severity, affected, worst, evidence, result.words)

    def _heads(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if one head, or one layer, has selected nothing or single positions in every sample."""
        result = outcome(history, context)
        if not result.mature(self.threshold("schedule")):
            return None
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        lowest, usual, narrow, open_ = (
            finite(history.layer(name))
            for name in ("head_logit_std_min", "head_logit_std", "head_entropy_min", "head_entropy_max")
        )
        for row in np.flatnonzero((~np.isnan(lowest)).sum(axis=0) >= _SAMPLES).tolist():
            measured = ~np.isnan(lowest[:, row])
            low, middle = lowest[measured, row], usual[measured, row]
            others = np.delete(usual[measured], row, axis=1)
            others = others[:, ~np.isnan(others).any(axis=0)]
            siblings = np.median(others, axis=1) if others.shape[1] else np.zeros(len(low))
            if (middle <= _NOT_AT_ALL).all() or (middle <= _ONE_HEAD * siblings).all():
                return self._even(history, result, row, None, float(np.median(middle)), float(np.median(siblings)))
            head = _same_head(history.layer("widest_head")[measured, row])
            if head is not None and (low <= _ONE_HEAD * middle).all():
                return self._even(history, result, row, head, float(np.median(low)), float(np.median(middle)))
            head = _same_head(history.layer("narrowest_head")[measured, row])
            selects = narrow[measured, row] <= _ONE_HEAD
            usual_head = is_pretrained(layers) or result.learned(0.5)
            if head is not None and not usual_head and (selects & (open_[measured, row] >= _OPEN)).all():
                entropy = float(np.median(narrow[measured, row]))
                message = (
                    f"Head {head} of layer {history.layers[row].name} has selected single positions since the start: "
                    f"its entropy is {entropy:.1%} of the maximum, that of another head {open_[measured, row][-1]:.0%}."
                )
                evidence = {"entropy": entropy, "head": float(head)}
                return self.finding(Severity.WARNING, 0.5, message, evidence, layers=names(history, [row]))
        return None

    def _even(
        self, history: RunHistory, result: Outcome, row: int, head: int | None, deviation: float, usual: float
    ) -> Finding:
        name = history.layers[row].name
        which = f"All heads of layer {name} have" if head is None else f"Head {head} of layer {name} has"
        others = "other attention layers" if head is None else "the layer's other heads"
        beside = f", but by {about(usual)} in {others}" if usual > 0 else ""
        message = (
            f"{which} weighed all positions alike since the start: the logits of a query vary by {about(deviation)}"
            f"{beside}; queries, keys or their scale are close to zero."
        )
        severity = Severity.INFO if result.learned(0.9) else Severity.WARNING
        evidence = {"logit_deviation": deviation, "usual_deviation": usual} | ({} if head is None else {"head": head})
        return self.finding(severity, 0.7, message, evidence, layers=names(history, [row]))

    def _finding(
        self,
        history: RunHistory,
        severity: Severity,
        affected: list[int],
        worst: int,
        evidence: dict[str, float],
        words: str,
    ) -> Finding:
        name, largest = history.layers[worst].name, evidence["largest_logit"]
        if evidence["entropy"] <= self.threshold("entropy"):
            message = f"Attention in layer {name} has collapsed to {evidence['entropy']:.1%} of the maximum entropy"
            message += "" if math.isnan(largest) else f" (largest logit {about(largest, 3)})"
        else:
            message = f"The largest attention logit of layer {name} has grown to {about(largest, 3)}, "
            message += f"{about(evidence['logit_growth'])} times its initial value"
        if severity is Severity.ERROR and words:
            message += f", and {words}"
        order = (worst, *(row for row in affected if row != worst))
        confidence = 0.85 if severity is Severity.ERROR else 0.5
        return self.finding(severity, confidence, message + ".", evidence, layers=names(history, list(order)))


def _same_head(numbers: Floats) -> int | None:
    """Return the head that was the extreme one in all samples; None if it was not always the same."""
    return int(numbers[0]) if len(numbers) and math.isfinite(numbers[0]) and (numbers == numbers[0]).all() else None
