"""AT206: attention that puts all its weight on single positions."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import finite, growth, last_median
from autotrainer.rules._shared.words import about

__all__ = ["AttentionEntropyCollapse"]

_SAMPLES = 5

_RISE = 1.5
"""Growth of the largest logit since the start that exceeds the noise between batches."""

_LATE = 0.9
"""Share of the schedule from which low entropy is an error if the model is not halfway to a perfect score."""


class AttentionEntropyCollapse(Rule):
    """Attention logits are so large that the softmax selects single positions.

    What it does
        For each attention layer, measures the mean entropy of the attention weights of a query, relative to that of
        equal weights, and the largest logit before the softmax.

    Why it hurts
        A softmax that selects a single position passes back almost no gradient: queries and keys stop learning. Logits
        that grow without bound precede divergence of the loss, sooner at high learning rates.

    Evidence used
        Median of both over the last samples, growth of the largest logit since the start, and the outcome.

    Thresholds
        ``entropy``: mean entropy ÷ logarithm of the number of positions, at most; ``logit``: largest logit, if it
        rises; ``schedule``: share of the planned training from which a poor outcome makes it an error.

    When it is wrong
        Some tasks require attention to one position (the previous token, a separator): a model that has learned is not
        reported. It is an error only if the model stays at the level of the trivial predictor, ends far from a good
        score with such selections, or the loss diverges; otherwise, and if the outcome is unknown, it is a warning.

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
    needs = OUTCOME_NEEDS | frozenset({"attention_entropy", "attention_max_logit"})
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
            return None
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
