"""AT417: an optimizer that is created anew every few steps."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.held_out import held_out_skill
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.words import about

__all__ = ["RecreatedOptimizer"]

_OPTIMIZERS = 10
"""Fewest optimizers one after another: the phases of a training are fewer."""

_EVALUATIONS = 3
"""Fewest evaluations that show harm."""


class RecreatedOptimizer(Rule):
    """The optimizer is created anew every few steps, so that it never remembers anything.

    What it does
        Counts the optimizers of the same parameters that are created during the training, one after another, and the
        steps that each of them takes.

    Why it hurts
        Momentum never builds up: with a momentum of 0.9, steps are a tenth of what they were meant to be. Adam without
        its memory divides each gradient by its own size, so that every weight moves by the learning rate in each step,
        however small or noisy its gradient is. A scheduler that was made for the first optimizer changes nothing any
        more.

    Evidence used
        Optimizers whose creation is seen while the training is watched; their steps; the score in training, as far as
        it is known, and in validation. Optimizers without momentum have no memory to lose.

    Thresholds
        ``steps`` of each optimizer, at most, and ``good_score``: skill from which it is no error.

    When it is wrong
        Where each task or client begins with a new optimizer on purpose, as in meta-learning with few inner steps. It
        is therefore an error only where the score is poor. A new optimizer in each epoch loses little, and is not
        reported.

    Repairs
        None. By hand: create the optimizer once, before the loop.

    References
        Kingma and Ba, Adam, ICLR 2015, section 3 (initialization bias); Sutskever et al., On the Importance of
        Initialization and Momentum in Deep Learning, ICML 2013.
    """

    problem = "recreated_optimizer"
    code = "AT417"
    aliases = ("new_optimizer", "optimizer_in_loop", "momentum_lost")
    phrases = (
        "optimizer created inside the loop",
        "new optimizer every step",
        "optimizer defined in the training step",
        "momentum has no effect",
    )
    needs = OUTCOME_NEEDS | frozenset({"later_optimizers", "later_steps"})
    place = "optimizer"
    THRESHOLDS = thresholds(
        steps=Threshold(10, "steps of each optimizer, at most", "1 ÷ (1 − 0.9): the memory of usual momentum", 1),
        good_score=Threshold(0.7, "skill that is good enough", "Theta of AUTOTRAINER", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        count, steps = (context.asked.get(name, 0.0) for name in ("later_optimizers", "later_steps"))
        forgetful = context.optimizer.name == "sgd" and not context.optimizer.momentum
        if count < _OPTIMIZERS or forgetful or not steps / count <= self.threshold("steps"):
            return None
        each = "one step" if steps == count else f"{about(steps / count)} steps"
        message = (
            f"The optimizer is created anew in the loop: {count:.0f} optimizers of the same parameters took {each} "
            f"each, and none of them remembers the steps of those before"
        )
        evidence = {"optimizers": count, "steps_each": steps / count}
        skill, words = self._skill(history, context)
        poor = skill < self.threshold("good_score")
        if poor:
            evidence["skill"] = skill
            message += f"; {words}"
        severity = Severity.ERROR if poor else Severity.WARNING
        return self.finding(severity, 0.95, f"{message}. Create it once, before the loop.", evidence)

    def _skill(self, history: RunHistory, context: TaskContext) -> tuple[float, str]:
        """Return the skill that shows the harm, in validation or else in training, and a clause; NaN if unknown."""
        if not len(history.steps):
            return math.nan, ""
        if len(history.ended_epochs) >= _EVALUATIONS:
            skill = held_out_skill(history, context)
            if math.isfinite(skill):
                return skill, f"skill over a constant prediction is {skill:.3g} in validation"
        result = outcome(history, context)
        if result.known and result.mature(0.5) and not result.moving():
            return result.skill, result.words
        return math.nan, ""
