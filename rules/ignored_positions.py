"""AT210: a model that does not know the order of its tokens."""

from __future__ import annotations

import math

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds

__all__ = ["IgnoredPositions"]

_NAMES = ("order_effect", "order_noise", "attention", "predicts_next", "order_conflicts", "order_in_inputs")


class IgnoredPositions(Rule):
    """Tokens in another order give the same output: the model does not know their positions.

    What it does
        On a copy of the model in evaluation mode, exchanges the tokens in the middle of a few sequences, and compares
        the output with that for other tokens in their place.

    Why it hurts
        Attention alone treats a sequence as a set. Without position embeddings, rotary or relative positions, or layers
        that know their neighbors, "dog bites man" and "man bites dog" are the same.

    Evidence used
        The change by another order, relative to the change by other tokens, and its rounding error; that it is none for
        other weights, too, as position embeddings may start at zero; whether the model has attention; and whether the
        data have an order: the share of targets that no such model can fit, as equal tokens have different targets, and
        whether neighboring time steps are more alike than others.

    Thresholds
        ``conflicts``: share of targets out of reach from which it is an error; ``alike``: normal quantile below which
        time steps have an order.

    When it is wrong
        A bag of words or a model of sets is meant to ignore order. So without attention, or for vectors in random
        order, this is a note, unless targets are out of reach. A causal model of several attention layers knows
        positions by the number of tokens that it sees (NoPE), and is not reported.

    Repairs
        Advice only: add position embeddings to the token embeddings, and check that their sum is what the first layer
        gets.

    References
        Vaswani et al., Attention Is All You Need, NeurIPS 2017, section 3.5; Kazemnejad et al., The Impact of
        Positional Encoding on Length Generalization in Transformers, NeurIPS 2023 (NoPE).
    """

    problem = "ignored_positions"
    code = "AT210"
    aliases = ("missing_positions", "no_positional_encoding", "position_embeddings")
    phrases = (
        "positional encoding missing",
        "transformer ignores word order",
        "order of tokens does not matter",
        "model treats the sequence as a set",
    )
    needs = frozenset(_NAMES)
    static = True
    THRESHOLDS = thresholds(
        conflicts=Threshold(
            0.1, "share of targets out of reach", "a tenth of the score, as not_learning.skill", maximum=1
        ),
        alike=Threshold(5, "normal quantile by which neighboring time steps are more alike", "chance of 3e-7"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _NAMES}
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
