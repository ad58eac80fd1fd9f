"""AT210: a model that makes no use of the order of its inputs."""

from __future__ import annotations

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.position_gradients import POSITION_NEEDS, UnusedPositions, unused_positions

__all__ = ["IgnoredPositions"]

_LATE = 0.9
"""Share of the schedule from which a model that is not halfway to a perfect score can't be trusted to get there."""


class IgnoredPositions(Rule):
    """Embeddings of positions are never learned, or are the same everywhere.

    What it does
        Looks for trainable embeddings of positions that receive no gradient, and for those that are called with the
        same index for all positions.

    Why it hurts
        Attention and pooling treat their inputs as a set: without positions, a sentence and its words in any other
        order are the same to the model.

    Evidence used
        Gradients and indices at all sampled steps. Embeddings are those of positions by their name (``pos_embed``,
        ``wpe``) or by indices that count up. Frozen ones, and those that no optimizer owns, do not count. Then the
        outcome.

    Thresholds
        ``samples``: sampled steps without exception; ``schedule``: share of the planned training from which it is an
        error in a model that has learned nothing.

    When it is wrong
        A table that is kept for compatibility while rotary or relative positions do its work: freeze or delete it. It
        is an error only if the model stays at the level of the trivial predictor, or ends far from a good score.

    Repairs
        Advice only: add the positions to the tokens, without ``detach`` or ``no_grad``, with indices 0, 1, 2, … along
        the axis of time.

    References
        Vaswani et al., Attention Is All You Need, 2017 (section 3.5).
    """

    problem = "ignored_positions"
    code = "AT210"
    aliases = ("positions_ignored", "position_blind", "unused_positions", "dead_positions")
    phrases = (
        "position embedding gets no gradient",
        "positional encoding is not used",
        "model ignores word order",
        "position embeddings do not train",
    )
    needs = OUTCOME_NEEDS | POSITION_NEEDS
    THRESHOLDS = thresholds(
        samples=Threshold(5, "sampled steps", "as attention_entropy_collapse", 1),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        unused = unused_positions(history, layers, int(self.threshold("samples")))
        if unused is None:
            return None
        result = outcome(history, context)
        poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
        over = result.known and not result.learned(0.5) and result.mature(_LATE)
        severity = result.worst if poor or over else Severity.WARNING
        message = _message(unused, names(history, list(unused.rows))[0])
        if severity is Severity.ERROR and result.words:
            message += f", and {result.words}"
        evidence = {"layers": float(len(unused.rows)), "samples": float(unused.samples)}
        return self.finding(severity, 0.85, message + ".", evidence, layers=names(history, list(unused.rows)))


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
