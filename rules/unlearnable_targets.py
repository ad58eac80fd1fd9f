"""AT507: targets that nothing in the inputs predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from autotrainer.records.task import TargetSummary
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.baseline_models import SIMPLE_NEEDS, SimpleModel, best_simple_model, skill_of
from autotrainer.rules._shared.held_out import held_out_accuracy, held_out_high, held_out_skill
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome

__all__ = ["UnlearnableTargets"]

_MIN_ROWS = 20
"""Fewest rows with the same target that are reported."""

_MANY_ROWS = 1000
"""Sampled rows of a whole training from which rows with another target are fewer than 1 % (with probability 1 − 4e-5).
The loss must have received the output itself: residuals of an equation, and opinions of an adversary, have constant
targets on purpose."""


@dataclass(frozen=True, slots=True)
class _Network:
    """How well a network does: scores and skill on training rows, and score and largest likely skill on others."""

    train_score: float
    held_out_score: float
    train_skill: float
    high: float


class UnlearnableTargets(Rule):
    """The targets are all the same, or nothing predicts them on new rows.

    What it does
        Checks whether the targets vary and, after a training that ended poorly, whether any simple model predicts those
        of held-out rows better than chance.

    Why it hurts
        There is nothing to learn: no model, learning rate or longer training will change that. A large network
        memorizes the training rows.

    Evidence used
        Spread of the targets. Accuracy or R² of a linear model, the nearest neighbors and a small tree on held-out
        rows, with their intervals; the network's score on the same rows and on rows that it was trained on; in a
        watched training, the simple models' scores on sampled rows, and the network's in training and validation.

    Thresholds
        ``skill``: largest skill over the trivial predictor, at the upper end of its interval, of the best simple model
        and of the network on held-out rows. ``memorised``: skill of the network on training rows from which it has
        memorized them.

    When it is wrong
        Some targets depend on an order or a combination that no simple model sees (parity, word order, objects anywhere
        in an image): unless the network has memorized its training rows, this is a warning. A loss that does not use
        the targets is not judged, nor is a network that is trained on a single class on purpose, such as an adversarial
        generator.

    Repairs
        Advice only: check how targets were read, joined and shuffled; look at some rows of each class.

    References
        Zhang et al., Understanding Deep Learning Requires Rethinking Generalization, ICLR 2017; Karpathy, A Recipe for
        Training Neural Networks, 2019.
    """

    problem = "unlearnable_targets"
    code = "AT507"
    aliases = ("constant_labels", "constant_targets", "random_labels", "label_noise")
    phrases = (
        "all labels are the same",
        "labels do not match the inputs",
        "labels got mixed up",
        "labels are random",
        "no signal in the data",
        "nothing to learn",
    )
    needs = (
        OUTCOME_NEEDS | frozenset({"constant_targets", "direct_loss", "train_score", "simple_features"}) | SIMPLE_NEEDS
    )
    causes = ("nonfinite_data", "shuffled_labels")
    static = True
    THRESHOLDS = thresholds(
        skill=Threshold(0.2, "skill on held-out rows, at most", "width of its interval at 250 rows", maximum=1),
        memorised=Threshold(0.5, "skill of the network on training rows", "half way to perfect", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return self._constant(history, context) or self._by_simple_models(history, context)

    def _constant(self, history: RunHistory, context: TaskContext) -> Finding | None:
        targets = history.targets
        if context.train_rows == 1:
            return None  # a single row can only show whether the model can fit it
        constant = context.asked.get("constant_targets")
        if constant == 0 or context.loss.own or targets.rows < _MIN_ROWS or not _same(targets):
            return None
        one_class = context.loss.family == "binary_cross_entropy" and targets.binary
        whole = constant == 1 or (context.train_rows is not None and 0 < context.train_rows <= targets.rows)
        whole |= history.finished and targets.rows >= _MANY_ROWS and bool((history.scalar("direct_loss") == 1).any())
        if one_class and not constant:
            return None
        rows = "all training rows" if constant == 1 else f"all {targets.rows} sampled rows"
        value = f" ({targets.minimum:.3g})" if targets.width == 1 else ""
        message = f"The targets of {rows} are the same{value}: there is nothing to learn."
        if not whole and not history.epoch:
            message += " Later rows may differ if the rows are sorted."
        severity = Severity.ERROR if whole else Severity.WARNING
        return self.finding(severity, 0.9 if whole else 0.6, message, {"target_variance": targets.variance})

    def _by_simple_models(self, history: RunHistory, context: TaskContext) -> Finding | None:
        simple = best_simple_model(context)
        if simple is None or simple.low > 0 or simple.high > self.threshold("skill"):
            return None
        network = self._network(history, context, simple)
        if network is None or not network.high <= self.threshold("skill"):
            return None
        evidence = {"train_score": network.train_score, "held_out_score": network.held_out_score}
        evidence |= {"simple_score": simple.score, "trivial_score": simple.trivial}
        evidence |= {"held_out_rows": float(simple.rows)}
        none = (
            f"no simple model predicts the targets of {simple.rows} held-out rows better than chance (the best, "
            f"{simple.name}, scores {simple.score:.3g}; the trivial predictor {simple.trivial:.3g}): check whether the "
            "targets are right."
        )
        if network.train_skill >= self.threshold("memorised"):
            message = (
                f"The model has only memorized its training rows (it scores {network.train_score:.3g} on them and "
                f"{network.held_out_score:.3g} on new ones), and {none}"
            )
            return self.finding(Severity.ERROR, 0.85, message, evidence)
        new = not math.isnan(network.held_out_score)
        score = network.held_out_score if new else network.train_score
        message = f"The model scores only {score:.3g} on {'new' if new else 'its training'} rows, and {none}"
        return self.finding(Severity.WARNING, 0.5, message, evidence)

    @staticmethod
    def _network(history: RunHistory, context: TaskContext, simple: SimpleModel) -> _Network | None:
        """Return the scores of the network; None if they are unknown, or the run goes on."""
        if context.managed or "held_out_score" in context.asked:
            train, held_out = (context.asked.get(name, math.nan) for name in ("train_score", "held_out_score"))
            _, high = skill_of(held_out, simple.trivial, simple.rows)
            return _Network(train, held_out, (train - simple.trivial) / (1 - simple.trivial), high)
        result = outcome(history, context)
        if not history.finished or not result.known:
            return None
        skill, high = held_out_skill(history, context), held_out_high(history, context)
        held_out = skill if result.regression else held_out_accuracy(history, context)
        if math.isnan(high):  # no validation: what is not learned on training rows is not known on others
            return _Network(result.score, math.nan, math.nan, result.high)
        return _Network(result.score, held_out, result.skill, high)


def _same(targets: TargetSummary) -> bool:
    """Return whether the targets of different rows differ by rounding at most."""
    return targets.variance <= 1e-20 * max(abs(targets.minimum), abs(targets.maximum)) ** 2
