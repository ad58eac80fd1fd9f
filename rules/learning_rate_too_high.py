"""AT408: steps that are too large to descend the loss."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.runaway import HIGH_MOMENTUM, loss_rise, momentum_travel, sharpness
from autotrainer.rules._shared.steps import STEP_NEEDS, Steps, growth_since_training, steps_taken
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = ["LearningRateTooHigh"]

_DEAD_SAMPLES = 3
"""Samples in which all gradients must be exactly zero for the model to count as dead."""

_GOOD = 0.8
"""Skill from which even a loss that has grown is harmless."""

_SOME = 0.3
"""Certain skill from which large first steps alone are not blamed: noise may allow no more."""

_RUNAWAY = 2
"""Growth of the weights ÷ threshold from which they have run away: they also grow in long training on noisy data."""

_MOVED = 1.5
"""Growth of all weights that confirms the effect of a large step."""

_REVERSED = -0.5
"""Median cosine between gradients an odd number of steps apart with which each step undoes half of the previous one."""

_MIN_LOSSES = 40
"""Fewest losses that give a level."""

_MIN_PAIRS = 4
"""Fewest pairs of gradients whose angle is judged."""

_FAR = 8.0
"""Distance that momentum will move the weights ÷ their norm from which training fails: up to 6, trainings that large
weights alone can solve ended well; from 10 on, none did."""

_DOUBLED = 2.0
"""Growth of all weights with which a risen loss shows steps in the wrong direction, and with which little is left of
weights that were trained before: fine-tuning hardly changes their size."""

_RISEN = 1.5
"""Loss ÷ its best level, beyond noise, that shows steps in the wrong direction."""

_DEAD, _ALIVE = 0.7, 0.5
"""Share of the units of a layer that are dead (gamma of AUTOTRAINER), and that were at most dormant at the start."""

_EARLY = 0.08
"""Share of the schedule from which that is judged: warm-up and the first large steps are over."""


class LearningRateTooHigh(Rule):
    """The learning rate is too high: steps overshoot and move the weights far away instead of reducing the loss.

    What it does
        Looks for steps that are large relative to the weights, or weights that have grown far beyond any initializer,
        together with a poor outcome.

    Why it hurts
        Gradient descent diverges if the rate exceeds 2 ÷ the largest curvature. The loss explodes, or one step moves
        the units of a layer to where no gradient can bring them back, or the model bounces between the walls of a
        valley instead of descending into it.

    Evidence used
        Norm of the sampled steps and of all weights, relative to the norm of the weights or, if they started tiny, to
        that of standard initializers; the angle between gradients an odd number of steps apart; the loss curve, which
        reveals the curvature if the loss grows by the same factor in each step; gradients that are exactly zero; units
        that have died since the first step; skill over the trivial predictor with its confidence interval. Weights that
        have doubled while the loss is 1.5 times its best, or although they were trained before, and momentum that sums
        more steps than the schedule has, are reported early. Momentum and a loss summed over the batch act like a
        higher rate; the message names them if they do.

    Thresholds
        ``step``: largest step ÷ weights; ``typical``: the median over the last half of the run; ``growth`` of all
        weights; ``group``: rate of a parameter group ÷ the highest rate of the others; ``skill``: skill below which a
        result after such steps is poor; ``schedule``: share of the planned training after which that is an error.

    When it is wrong
        A model that learns is not reported, however large its steps. A diverging loss and a dead model are an error at
        once (a warning for a custom loss), other outcomes only after ``schedule``. Noisy data may allow only limited
        skill: a model with some skill is an error only if the weights or the loss have diverged. Unscaled data and a
        wrong loss make every usual rate too high: they are then reported as the root cause.

    Repairs
        A rate that gives the first step a typical size, a typical momentum, another optimizer, or gradient clipping.

    References
        Smith, WACV 2017 (1506.01186); Cohen et al., ICLR 2021 (2103.00065); Goodfellow et al. 2016, section 8.2.
    """

    problem = "learning_rate_too_high"
    code = "AT408"
    aliases = ("lr_too_high", "high_learning_rate", "learning_rate_high", "momentum_too_high")
    phrases = (
        "learning rate too high",
        "learning rate too large",
        "loss explodes after a few steps",
        "loss increases after first epoch",
        "training is unstable",
        "loss jumps after the first step",
    )
    needs = OUTCOME_NEEDS | STEP_NEEDS | frozenset({"gradient_cosine", "dead_units", "dormant"})
    causes = (
        "nonfinite_data",
        "target_mismatch",
        "loss_term_imbalance",
        "improper_loss",
        "improper_output_activation",
        "missing_zero_grad",
        "wrong_accumulation",
        "rows_mixed",
        "unshuffled_data",
        "abnormal_data",
        "unscaled_targets",
        "poor_initialization",
        "abnormal_initial_loss",
    )
    repairs = (
        "scale_learning_rate",
        "add_momentum",
        "swap_optimizer",
        "clip_gradients",
        "reduce_on_plateau",
        "warm_up_learning_rate",
        "schedule_learning_rate",
    )
    place = "optimizer"
    THRESHOLDS = thresholds(
        step=Threshold(0.1, "largest step ÷ weights", "calibrated: 97 % of healthy ones stay below"),
        typical=Threshold(0.03, "median step ÷ weights", "Karpathy: log10 at most -1.5"),
        growth=Threshold(4, "growth of all weights", "calibrated: 98 % of healthy ones stay below", 1),
        group=Threshold(
            1e3, "rate of a parameter group ÷ the highest other one", "layer-wise rates span about 100", 1.0
        ),
        skill=Threshold(0.5, "skill below which a result is poor", "halfway to a perfect score", maximum=1),
        schedule=Threshold(
            0.15,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if len(history.steps) < 2:
            return None
        steps = steps_taken(history)
        evidence = {
            "first_step": steps.first,
            "largest_step": steps.largest,
            "typical_step": steps.typical,
            "weight_growth": steps.grown,
        }
        result = outcome(history, context)
        reason = self._reason(history, context, steps, evidence, known=result.known) or self._apart(context, evidence)
        travel = momentum_travel(context, result, steps)
        severity: Severity | None
        if travel >= _FAR and steps.grown >= _MOVED and result.mature(_EARLY) and not result.learned(_GOOD):
            reason = reason or f"each step changes the weights by {about(steps.typical)} times their norm"
            severity, confidence = result.worst, 0.9
            effect = f"momentum will move the weights by {about(travel)} times their norm by the end of the schedule"
            evidence["carried"] = travel
        elif reason:
            severity, confidence, effect = self._judge(history, context, result, steps)
        else:
            return None
        if severity is None:
            return None
        curvature = sharpness(history, context)
        if math.isfinite(curvature):
            evidence["sharpness"] = curvature
        evidence |= {"skill_high": result.high, "learning_rate": context.optimizer.learning_rate}
        message = f"The learning rate {_rate(history, context)}is too high: {reason}, and {effect}."
        return self.finding(severity, confidence, message, evidence)

    def _reason(
        self, history: RunHistory, context: TaskContext, steps: Steps, evidence: dict[str, float], *, known: bool
    ) -> str:
        """Return what shows that steps are too large, as a clause; empty if nothing does."""
        if steps.largest >= self.threshold("step") and (not steps.grown < _MOVED or (not known and _died(history))):
            return f"a step changed the weights by {about(steps.largest)} times their norm"
        if steps.grown >= self.threshold("growth"):
            return f"the weights have grown {about(steps.grown)}-fold"
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        grown = growth_since_training(history, layers)
        if grown >= _DOUBLED:
            return f"the weights, which were trained before, have grown {about(grown)}-fold"
        if steps.typical >= self.threshold("typical"):
            return f"each step changes the weights by {about(steps.typical)} times their norm"
        # If each step overshoots, the gradient alternates: it is reversed after an odd number of steps.
        odd = np.diff(history.steps, prepend=-2) % 2 == 1
        late = history.scalar("gradient_cosine")[odd & (history.steps >= history.step / 2)]
        late = late[np.isfinite(late)]
        if len(late) >= _MIN_PAIRS and steps.typical >= self.threshold("typical") / 3:
            evidence["gradient_cosine"] = float(np.median(late))
            if evidence["gradient_cosine"] <= _REVERSED:
                return "each step reverses the gradient"
        return ""

    def _apart(self, context: TaskContext, evidence: dict[str, float]) -> str:
        """Return that the rate of a parameter group is far above all others, as a clause; else an empty string."""
        *others, largest = sorted(context.optimizer.group_rates) or (0.0,)
        ratio = largest / others[-1] if others and others[-1] > 0 else 1.0
        if ratio < self.threshold("group"):
            return ""
        evidence["group_ratio"] = ratio
        return f"the rate of a parameter group, {largest:.3g}, is {about(ratio)} times that of the others"

    def _judge(
        self, history: RunHistory, context: TaskContext, result: Outcome, steps: Steps
    ) -> tuple[Severity | None, float, str]:
        """Return severity, confidence and a clause on the outcome."""
        words = result.words or "the loss does not fall"
        if context.optimizer.several and not result.known:
            return None, 0.0, ""
        far = steps.largest >= self.threshold("step") or steps.grown >= self.threshold("growth")
        if result.diverged and far and not result.learned(_GOOD):
            custom = context.loss.own and not result.known  # may follow a moving target
            fair = result.learned(self.threshold("skill")) or custom
            return (Severity.WARNING if fair else Severity.ERROR), 0.6 if fair else 0.95, "the loss has exploded"
        rise = loss_rise(history)
        wrong = steps.grown >= _DOUBLED and rise >= _RISEN and not result.to_come and result.mature(_EARLY)
        if wrong and result.known and not result.learned(_GOOD):
            return result.worst, 0.9, f"the loss is {about(rise)} times its best value so far, while {words}"
        if result.learned(self.threshold("skill")):
            return None, 0.0, ""
        norms = history.scalar("grad_norm")[-_DEAD_SAMPLES:]
        if len(norms) == _DEAD_SAMPLES and (norms == 0).all() and result.high <= 0.3:
            return Severity.ERROR, 0.95, f"all gradients are now exactly zero, while {words}"
        if not result.mature(self.threshold("schedule")) or result.moving(0.1):
            return None, 0.0, ""
        large = steps.largest >= self.threshold("step") or steps.typical >= self.threshold("typical")
        lasting = steps.typical >= self.threshold("typical") or steps.grown >= self.threshold("growth")
        if result.learned(_SOME) and not (lasting or context.optimizer.momentum >= HIGH_MOMENTUM):
            return None, 0.0, ""
        if not (large or context.optimizer.momentum >= HIGH_MOMENTUM or result.stuck(0.3)):
            return None, 0.0, ""  # a model with few weights may need large ones
        if not result.known:
            verdict = self._by_loss(history, context, result)
            died = _died(history) if verdict[0] is None and steps.largest >= self.threshold("step") else ""
            return (Severity.WARNING, 0.6, died) if died else verdict
        # Some skill may be all that noisy data allow, unless the weights or the loss have run away.
        runaway = (
            steps.grown >= _RUNAWAY * self.threshold("growth") or self._by_loss(history, context, result)[0] is not None
        )
        poor = result.high <= self.threshold("skill") + 0.1
        if result.stuck() or (poor and (runaway or context.optimizer.momentum >= HIGH_MOMENTUM)):
            return result.worst, 0.9 if result.stuck() else 0.8, f"{words} after {result.steps} steps"
        return Severity.WARNING, 0.5, f"{words} after {result.steps} steps"

    @staticmethod
    def _by_loss(history: RunHistory, context: TaskContext, result: Outcome) -> tuple[Severity | None, float, str]:
        """Judge by the loss if skill is unknown or too noisy: the loss must not be below its start.

        At most a warning for a custom loss, which may not measure success.
        """
        losses = history.losses[1]
        losses = losses[np.isfinite(losses)]
        if len(losses) < _MIN_LOSSES:
            return None, 0.0, ""
        # The first loss comes before any step: the next ones may have exploded.
        start = float(min(losses[0], np.median(losses[:5])))
        now = float(np.median(losses[-len(losses) // 4 :]))
        if not 0 < start <= now:
            return None, 0.0, ""
        custom = context.loss.own
        effect = f"the loss is {about(now, 3)} after {result.steps} steps and was {about(start, 3)} at the start"
        return (Severity.WARNING if custom else result.worst), 0.6 if custom else 0.8, effect


def _died(history: RunHistory) -> str:
    """Return that most units of a hidden layer have died since the first sample, as a clause; empty if none have."""
    first, last = history.layer("dormant")[0], last_median(history.layer("dead_units"), 3)
    rows = [row for row, layer in enumerate(history.layers) if layer.hidden and first[row] <= _ALIVE]
    worst = max(rows, key=lambda row: float(np.nan_to_num(last[row])), default=None)
    if worst is None or not last[worst] >= _DEAD:
        return ""
    return f"{last[worst]:.0%} of the units of layer {history.layers[worst].name} have died since the first step"


def _rate(history: RunHistory, context: TaskContext) -> str:
    """Return the largest rate so far (schedules may raise it), with what amplifies it, as part of a sentence."""
    sampled, momentum = history.scalar("learning_rate"), context.optimizer.momentum
    rates = np.append(sampled[np.isfinite(sampled)], context.optimizer.learning_rate)
    if not np.isfinite(rates).any():
        return ""
    rate = float(np.nanmax(rates))
    amplifiers = []
    if context.loss.reduction == "sum":
        size = history.scalar("batch_size")[-1]
        amplifiers.append(f"the loss is a sum over {f'{size:.0f}' if size > 0 else 'all'} samples")
    if HIGH_MOMENTUM <= momentum < 1:
        amplifiers.append(f"a momentum of {momentum:g} sums {about(1 / (1 - momentum), 3)} steps")
    return f"of {rate:.3g} ({' and '.join(amplifiers)}) " if amplifiers else f"of {rate:.3g} "
