"""AT404: gradients that are never reset, so that each step follows the sum of all gradients so far."""

from __future__ import annotations

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import growth, recent

__all__ = ["MissingZeroGrad"]

_MIN_STALE = 3
"""Fewest steps with old gradients: a single one may be a skipped step."""

_MIN_COSINES = 8
"""Fewest sampled gradients whose directions are compared if the gradients themselves are not visible."""


class MissingZeroGrad(Rule):
    """Gradients are not reset between the steps of the optimizer: `zero_grad` is missing.

    What it does
        Checks, in the backward pass of sampled steps, whether the gradients of the previous step are still there when
        new ones are added.

    Why it hurts
        Each step then follows the sum of all gradients since the start: old directions never fade, steps grow and
        overshoot, and the loss swings or diverges even at a low learning rate.

    Evidence used
        Gradients of three parameters at the end of a step, and whenever new ones are about to be added to them in the
        next step. Gradient accumulation resets after its step, and adversarial training before its own backward pass:
        both show a reset. If the gradients themselves are not visible: gradients that keep their direction while their
        norm grows and the loss does not fall, for a warning at most.

    Thresholds
        ``share`` of the sampled steps in which old gradients were still there; ``cosine`` and ``growth`` of the
        gradients if they are judged by direction and norm alone; ``good_score`` from which it is only a warning.

    When it is wrong
        If gradients are kept on purpose, as a hand-made momentum without decay. It is never reported in Keras, which
        has no such call.

    Repairs
        The gradients are reset after each step. In a custom loop: call ``optimizer.zero_grad()`` once before each
        ``backward()``, or after each ``step()``.

    References
        PyTorch documentation, torch.optim.Optimizer.zero_grad; Humbatova et al., ICSE 2020 (taxonomy of real faults).
    """

    problem = "missing_zero_grad"
    code = "AT404"
    place = "step"
    aliases = ("zero_grad", "no_zero_grad", "gradient_reset", "accumulated_gradients")
    phrases = (
        "forgot zero_grad",
        "optimizer.zero_grad",
        "gradients accumulate",
        "gradients are not reset",
        "zero_grad missing",
    )
    needs = OUTCOME_NEEDS | frozenset({"stale_gradients", "gradient_cosine"})
    repairs = ("restore_zero_grad",)
    THRESHOLDS = thresholds(
        share=Threshold(
            0.5, "share of sampled steps with gradients of the previous step, at least", "0 if reset", maximum=1.0
        ),
        cosine=Threshold(0.95, "cosine between gradients of sampled steps, at least", "catalogue", maximum=1.0),
        growth=Threshold(3.0, "growth of the gradient norm, at least", "above its noise, as in AT102"),
        good_score=Threshold(0.9, "skill from which the harm is small", "not_learning", maximum=1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        stale = history.scalar("stale_gradients")[recent(history.steps)]
        stale = stale[np.isfinite(stale)]
        if not stale.size:
            return self._by_direction(history, context)
        share = float(stale.mean())
        if stale.sum() < _MIN_STALE or share < self.threshold("share"):
            return None
        result = outcome(history, context)
        severity = Severity.WARNING if result.learned(self.threshold("good_score")) else result.worst
        message = (
            f"zero_grad() is missing: in {int(stale.sum())} of {stale.size} sampled steps, the gradients of the "
            "previous step were still there when new ones were added, so each step follows the sum of all gradients"
        )
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        return self.finding(severity, result.certainty, message + ".", {"share": share, "samples": float(stale.size)})

    def _by_direction(self, history: RunHistory, context: TaskContext) -> Finding | None:
        cosines = history.scalar("gradient_cosine")
        cosines = cosines[recent(history.steps)]
        cosines = cosines[np.isfinite(cosines)]
        if context.framework != "pytorch" or len(cosines) < _MIN_COSINES:
            return None
        cosine, grown = float(np.median(cosines)), growth(history.scalar("grad_norm"))
        result = outcome(history, context)
        falls = result.trend.falling or np.isnan(result.trend.slope) or result.learned()
        if falls or cosine < self.threshold("cosine") or not self.threshold("growth") <= grown < np.inf:
            return None
        return self.finding(
            Severity.WARNING,
            0.4,
            f"Gradients may never be reset (zero_grad): they keep their direction (cosine {cosine:.3f}) while their "
            f"norm has grown {grown:.3g}-fold and the loss does not fall.",
            {"cosine": cosine, "growth": grown},
        )
