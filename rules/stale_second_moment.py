"""AT803: Adam's second moment does not match the gradients that it divides."""

from __future__ import annotations

import numpy as np

from autotrainer.records.signals import Floats
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names, weight_layers
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.trends import recent

__all__ = ["StaleSecondMoment"]

_SAMPLES = 8

_FIRST_STEP = 50
"""Step before which the second moment is a mean of few gradients and the ratio is no evidence: it is at most the root
of the number of steps."""

_MIN_PARAMETERS = 64
"""Parameters of a layer from which its ratio is a mean over many: those of a few units rise and fall together with the
batch, and all start again after a unit has been silent."""


class StaleSecondMoment(Rule):
    """Adam's second moment is out of date: its steps are far larger, or far smaller, than the learning rate implies.

    What it does
        Compares the size of the gradients, layer by layer, with the second moment that Adam divides them by: the ratio
        is about 1 where the second moment is up to date.

    Why it hurts
        Gradients that outgrow a slow second moment (β2 near 1) make steps too large, and the loss jumps. Gradients far
        below it, after an explosion or below ε, make steps close to zero.

    Evidence used
        For Adam and its variants: the share of samples of the last half of the run in which the ratio is large, and its
        median there; the outcome of the training. Left out are embeddings, most of whose rows have no gradient, layers
        of fewer than 64 parameters, whose ratio depends on a few values, and the first 50 steps.

    Thresholds
        ``ratio``: root mean square of gradient ÷ root of the second moment, from which the latter is out of date.
        ``share``: share of the samples in which that must be so. ``small``: the ratio up to which steps are close to
        zero. ``schedule``: share of the planned training from which a poor outcome counts.

    When it is wrong
        Small or hard batches have large ratios now and then, a model that leaves a plateau has them for a while, and
        all ratios are small where the loss falls fast. Nothing is reported while the loss still falls, or for a model
        that has learned; small ratios are at most a warning.

    Repairs
        A lower β2 with clipped updates, a smaller ε, or a reset optimizer state; a lower learning rate, clipped
        gradients, or another optimizer.

    References
        Wortsman et al., Stable and low-precision training for large-scale vision-language models, NeurIPS 2023 (arXiv
        2304.13013), section 3.4; Wortsman et al., Small-scale proxies, ICLR 2024 (2309.14322), on ε.
    """

    problem = "stale_second_moment"
    code = "AT803"
    aliases = ("adam_second_moment", "second_moment", "adam_epsilon", "adam_beta2", "stale_adam")
    phrases = (
        "adam diverges",
        "adam becomes unstable",
        "adam takes tiny steps",
        "adam beta2 too high",
        "adam epsilon too large",
        "gradients smaller than epsilon",
    )
    needs = OUTCOME_NEEDS | frozenset({"second_moment_ratio"})
    causes = (
        "nonfinite_data",
        "abnormal_data",
        "unscaled_targets",
        "learning_rate_too_high",
        "exploding_gradient",
        "vanishing_gradient",
    )
    repairs = (
        "scale_learning_rate",
        "clip_gradients",
        "swap_optimizer",
        "tune_adam",
        "reset_optimizer_state",
        "warm_up_learning_rate",
    )
    THRESHOLDS = thresholds(
        ratio=Threshold(2.3, "size of the gradient ÷ root of the second moment", "Wortsman 2023", 1),
        share=Threshold(0.3, "share of the samples", "healthy runs have up to 0.15", maximum=1),
        small=Threshold(0.1, "the ratio at which steps are a tenth of what they should be", "definition"),
        schedule=Threshold(0.25, "share of the schedule before it is judged", "not_learning", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        late = recent(history.steps, least=_SAMPLES)
        settled = history.steps[late] >= _FIRST_STEP
        if settled.sum() < _SAMPLES:
            return None
        ratios = history.layer("second_moment_ratio")[late][settled]
        rows = [row for row in weight_layers(history) if history.layers[row].parameters >= _MIN_PARAMETERS]
        rows = [row for row in rows if np.isfinite(ratios[:, row]).sum() >= _SAMPLES]
        if not rows:
            return None
        result = outcome(history, context)
        waiting = result.moving() or not result.mature(self.threshold("schedule"))
        if result.learned(0.5) or (waiting and not result.diverged):
            return None
        return self._large(history, result, rows, ratios) or self._small(history, result, rows, ratios)

    def _large(self, history: RunHistory, result: Outcome, rows: list[int], ratios: Floats) -> Finding | None:
        """Find layers whose gradients are repeatedly far above their second moment."""
        least = self.threshold("ratio")
        shares = {row: float(np.mean(_finite(ratios, row) >= least)) for row in rows}
        large = sorted((row for row in rows if shares[row] >= self.threshold("share")), key=lambda row: -shares[row])
        if not large:
            return None
        poor = result.stuck(0.2) and not result.moving(0.1)
        severity = Severity.ERROR if result.diverged else (result.worst if poor else Severity.WARNING)
        name, share = history.layers[large[0]].name, shares[large[0]]
        message = (
            f"Adam's second moment is out of date: in {share:.0%} of the last sampled steps, the gradients of layer "
            f"{name} were at least {least:g} times as large as it implies"
        )
        return self._with_outcome(history, severity, message, result, large, {"share": share}, ratios)

    def _small(self, history: RunHistory, result: Outcome, rows: list[int], ratios: Floats) -> Finding | None:
        """Find a model in which at least half of the layers have gradients far below their second moment, or ε."""
        medians = {row: float(np.median(_finite(ratios, row))) for row in rows}
        small = sorted(
            (row for row in rows if 0 < medians[row] <= self.threshold("small")), key=lambda row: medians[row]
        )
        if not small or len(small) < len(rows) / 2 or not result.stuck(0.2):
            return None
        name = history.layers[small[0]].name
        message = (
            f"Adam's steps are too small: the gradients of layer {name} are only {medians[small[0]]:.2g} times as "
            "large as its second moment and ε imply"
        )
        return self._with_outcome(history, Severity.WARNING, message, result, small, {}, ratios)

    def _with_outcome(
        self,
        history: RunHistory,
        severity: Severity,
        message: str,
        result: Outcome,
        affected: list[int],
        evidence: dict[str, float],
        ratios: Floats,
    ) -> Finding:
        words = f"; {result.words}" if result.words else ""
        evidence |= {"ratio": float(np.median(_finite(ratios, affected[0]))), "affected_layers": float(len(affected))}
        confidence = 0.75 if severity is Severity.ERROR else 0.5
        return self.finding(severity, confidence, f"{message}{words}.", evidence, layers=names(history, affected))


def _finite(ratios: Floats, row: int) -> Floats:
    column: Floats = ratios[:, row]
    return column[np.isfinite(column)]
