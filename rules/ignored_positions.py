"""AT210: a model that makes no use of the order of its inputs."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.position_gradients import POSITION_NEEDS, UnusedPositions, unused_positions

__all__ = ["IgnoredPositions"]

_PROBED = ("order_effect", "order_noise", "attention", "predicts_next", "order_conflicts", "order_in_inputs")
_LATE = 0.9
"""Share of the schedule from which a model that is not halfway to a perfect score can't be trusted to get there."""


class IgnoredPositions(Rule):
    """The model does not know the order of its inputs, or its embeddings of positions are not used.

    What it does
        On a copy of the model in evaluation mode, exchanges the tokens in the middle of a few sequences, and compares
        the output with that for other tokens in their place. In a watched training, looks for trainable embeddings of
        positions that receive no gradient, and for those that are called with the same index for all positions.

    Why it hurts
        Attention alone treats a sequence as a set. Without position embeddings, rotary or relative positions, or layers
        that know their neighbors, "dog bites man" and "man bites dog" are the same.

    Evidence used
        Probe: the change by another order, relative to the change by other tokens, and its rounding error; that it is
        none for other weights, too, as position embeddings may start at zero; whether the model has attention; and
        whether the data have an order: the share of targets that no such model can fit, as equal tokens have different
        targets, and whether neighboring time steps are more alike than others. Watched: gradients and indices at all
        sampled steps. Embeddings are those of positions by their name (``pos_embed``, ``wpe``) or by indices that count
        up. Frozen ones, and those that no optimizer owns, do not count. Then the outcome.

    Thresholds
        ``conflicts``: share of targets out of reach from which it is an error; ``alike``: normal quantile below which
        time steps have an order; ``samples``: sampled steps without exception; ``schedule``: share of the planned
        training from which it is an error in a model that has learned nothing; ``harmless``: skill from which positions
        that are certainly not used are no error.

    When it is wrong
        A bag of words or a model of sets is meant to ignore order. So without attention, or for vectors in random
        order, this is a note, unless targets are out of reach. A causal model of several attention layers knows
        positions by the number of tokens that it sees (NoPE), and is not reported. A table that is kept for
        compatibility while rotary or relative positions do its work: freeze or delete it. It is an error only if the
        model stays at the level of the trivial predictor, or ends far from a good score; where the table is looked up
        in vain, or the probe shows that nothing else tells the order, until the model has learned well.

    Repairs
        Advice only: add the positions to the tokens, without ``detach`` or ``no_grad``, with indices 0, 1, 2, … along
        the axis of time, and check that their sum is what the first layer gets.

    References
        Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5; Kazemnejad et al., The Impact of
        Positional Encoding on Length Generalization in Transformers, NeurIPS 2023 (NoPE).
    """

    problem = "ignored_positions"
    code = "AT210"
    aliases = (
        "positions_ignored", "position_blind", "unused_positions", "dead_positions", "missing_positions",
        "no_positional_encoding", "position_embeddings",
    )  # fmt: skip
    phrases = (
        "positional encoding missing",
        "position embedding gets no gradient",
        "positional encoding is not used",
        "transformer ignores word order",
        "order of tokens does not matter",
        "model treats the sequence as a set",
        "position embeddings do not train",
    )
    needs = OUTCOME_NEEDS | POSITION_NEEDS | frozenset(_PROBED)
    static = True
    THRESHOLDS = thresholds(
        conflicts=Threshold(
            0.1, "share of targets out of reach", "a tenth of the score, as not_learning.skill", maximum=1
        ),
        alike=Threshold(5, "normal quantile by which neighboring time steps are more alike", "chance of 3e-7"),
        samples=Threshold(5, "sampled steps", "as attention_entropy_collapse", 1),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
        harmless=Threshold(0.8, "skill from which the harm is small", "as in parameters_not_optimized", maximum=1),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        watched, probed = self._watched(history, context), self._probed(context)
        if watched is None or probed is None:
            return watched or probed
        return min(watched, probed, key=lambda finding: finding.severity.rank)

    def _watched(self, history: RunHistory, context: TaskContext) -> Finding | None:
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        unused = unused_positions(history, layers, int(self.threshold("samples")))
        if unused is None:
            return None
        result = outcome(history, context)
        poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
        over = result.known and not result.learned(0.5) and result.mature(_LATE)
        effect, noise = (context.asked.get(name, math.nan) for name in ("order_effect", "order_noise"))
        dead = unused.constant or unused.looked_up or effect <= noise < 1  # rather than left over beside others
        certain = dead and not result.learned(self.threshold("harmless")) and result.mature(self.threshold("schedule"))
        severity = result.worst if poor or over or certain else Severity.WARNING
        message = _message(unused, names(history, list(unused.rows))[0])
        if severity is Severity.ERROR and result.words:
            message += f", and {result.words}"
        evidence = {"layers": float(len(unused.rows)), "samples": float(unused.samples)}
        return self.finding(severity, 0.85, message + ".", evidence, layers=names(history, list(unused.rows)))

    def _probed(self, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _PROBED}
        effect, noise, attention, predicts_next, conflicts, quantile = evidence.values()
        if not effect <= noise or not noise < 1:
            return None
        evidence = {name: value for name, value in evidence.items() if not math.isnan(value)}
        message = "Tokens in another order give the same output: the model does not know their positions"
        if conflicts >= self.threshold("conflicts"):
            message += f", and can't fit {conflicts:.0%} of the targets, which differ where only the order does"
            return self.finding(Severity.ERROR, 0.9, f"{message}. Add position embeddings.", evidence)
        if attention == 1 and (predicts_next == 1 or math.isnan(quantile) or quantile <= -self.threshold("alike")):
            return self.finding(Severity.WARNING, 0.75, f"{message}. Add position embeddings.", evidence)
        return self.finding(Severity.INFO, 0.6, f"{message}; this may be meant (a bag of words, a set).", evidence)


def _message(unused: UnusedPositions, name: str) -> str:
    if unused.constant:
        return (
            f"All positions have the same index in {name}, in all {unused.samples} sampled steps: the model can't tell "
            "the order of its inputs"
        )
    return (
        f"The position embeddings of {name} receive no gradient in any of the {unused.samples} sampled steps, although "
        "they are trainable: they are not used, or detached"
    )
