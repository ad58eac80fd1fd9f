"""AT213: embeddings whose rows occur but never learn, and tied weights that are not tied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotrainer.records.signals import LayerInfo
from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, Outcome, outcome
from autotrainer.rules._shared.position_gradients import POSITION_NEEDS, unused_positions
from autotrainer.rules._shared.trends import last_median

__all__ = ["EmbeddingUnused"]

_SAMPLES = 5
"""Sampled steps that must show it."""

_FEW_ROWS = 4
"""Special tokens (padding, start, end, mask) that may never get a gradient."""

_MANY = 0.25
"""Share of the rows that occur often from which a mediocre result is their fault: words without a pretrained vector are
fewer."""

_LATE = 0.9
"""Share of the schedule from which a model that is not halfway to a perfect score can't be trusted to get there."""

_TIES = {
    "declared": ("the model's configuration says that they are tied", 0.9),
    "lost": ("they were one parameter when the training began", 0.9),
    "equal": ("they have the same initial values", 0.7),
}


class EmbeddingUnused(Rule):
    """An embedding has rows that occur but never learn, or weights that should be tied to it are not.

    What it does
        Looks for embeddings whose rows occur in the batches but get no gradient or stay zero, for a padding index that
        stands between other tokens, and for output weights that should be an embedding's own but are a copy.

    Why it hurts
        Tokens whose rows never learn are noise to the model, or nothing at all. A token that counts as padding is
        ignored wherever it means something. Weights that should be tied drift apart, with twice the parameters and half
        the examples for each.

    Evidence used
        Indices, gradients of the rows that they select and whether these rows are zero, at all sampled steps; the row
        of ``padding_idx`` (index 0 with ``mask_zero``) has no gradient by design and does not count. Values and
        identity of the weights before the first step; the model's configuration.

    Thresholds
        ``rows``: share of the rows seen in at least five sampled steps that never had a gradient, or are zero;
        ``padding``: share of the padding that stands alone between two other tokens, as no padding does; ``schedule``:
        share of the planned training from which an embedding without any gradient, or with such rows, is an error in a
        model that has learned nothing.

    When it is wrong
        Old rows may be kept on purpose while new ones are trained. Up to four special tokens may be left out of loss
        and attention. An output layer can be started from an embedding on purpose. All these are warnings, or facts if
        the model learns well.

    Repairs
        Advice only: remove what cuts off the gradient (``detach``, ``no_grad``, a hook, a wrong ``padding_idx``); tie
        weights by assigning the parameter itself (``head.weight = embedding.weight``), not its values.

    References
        Press and Wolf, Using the Output Embedding to Improve Language Models, 2017; PyTorch documentation,
        torch.nn.Embedding.
    """

    problem = "embedding_unused"
    code = "AT213"
    aliases = ("unused_embedding", "dead_embedding", "untied_weights", "tied_weights", "wrong_padding_idx")
    phrases = (
        "embedding gets no gradient",
        "embedding rows are zero",
        "tied weights are not tied",
        "weight tying does not work",
        "embedding is not trained",
        "padding_idx is a real token",
    )
    needs = (
        OUTCOME_NEEDS
        | POSITION_NEEDS
        | frozenset({"frequent_rows", "rows_without_gradient", "rows_of_zero", "padding_between"})
    )
    THRESHOLDS = thresholds(
        rows=Threshold(0.1, "share of frequent rows", "more than special tokens and noise", maximum=1),
        padding=Threshold(0.5, "share of padding alone between tokens", "0 in padded sequences", maximum=1),
        schedule=Threshold(
            0.12,
            "share of the schedule before an error",
            "benchmark goal: an error within a fifth of the run",
            maximum=1,
        ),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        layers = context.layers if len(context.layers) == len(history.layers) else history.layers
        result = outcome(history, context)
        dead = self._without_gradient(history, layers, result)
        return dead or self._untied(history, layers, result) or self._rows(history, layers, result)

    def _without_gradient(self, history: RunHistory, layers: Sequence[LayerInfo], result: Outcome) -> Finding | None:
        """Return a finding if whole embeddings, other than those of positions, never get a gradient."""
        graded = history.scalar("grad_norm") > 0
        without = history.layer("lookups_without_gradient")[graded]
        measured = ~np.isnan(without)
        always = (measured.sum(axis=0) >= _SAMPLES) & ((without == 1) | ~measured).all(axis=0)
        positions = unused_positions(history, layers, _SAMPLES)
        left_out = positions.rows if positions is not None else ()
        rows = [row for row in self._trained(layers) if always[row] and row not in left_out]
        if not rows:
            return None
        poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
        over = result.known and not result.learned(0.5) and result.mature(_LATE)
        severity = result.worst if poor or over else Severity.WARNING
        message = (
            f"Embedding {layers[rows[0]].name} is looked up but receives no gradient in any of the "
            f"{int(measured[:, rows[0]].sum())} sampled steps, although it is trainable"
        )
        if severity is Severity.ERROR and result.words:
            message += f", and {result.words}"
        evidence = {"layers": float(len(rows)), "samples": float(measured[:, rows[0]].sum())}
        return self.finding(severity, 0.85, message + ".", evidence, layers=names(history, rows))

    def _untied(self, history: RunHistory, layers: Sequence[LayerInfo], result: Outcome) -> Finding | None:
        rows = [row for row, layer in enumerate(layers) if layer.tied_to and layer.tie in _TIES]
        if not rows or not len(history.steps):
            return None
        layer = layers[rows[0]]
        reason, confidence = _TIES[layer.tie]
        severity = Severity.INFO if layer.tie == "equal" and result.learned(0.8) else Severity.WARNING
        message = (
            f"The weights of {layer.name} and of embedding {layer.tied_to} are separate parameters, although {reason}: "
            "they drift apart as they are trained."
        )
        affected = (layer.name, layer.tied_to)
        return self.finding(severity, confidence, message, {"layers": float(len(rows))}, layers=affected)

    def _rows(self, history: RunHistory, layers: Sequence[LayerInfo], result: Outcome) -> Finding | None:
        """Return a finding if many rows never get a gradient or stay zero, or padding stands between tokens."""
        columns = ("frequent_rows", "rows_without_gradient", "rows_of_zero", "padding_between")
        frequent, without, zero, between = (last_median(history.layer(name), 3) for name in columns)
        measured = (~np.isnan(history.layer("padding_between"))).sum(axis=0) >= _SAMPLES
        positions = unused_positions(history, layers, 1)
        reached = np.any(
            history.layer("lookups_without_gradient") < 1, axis=0
        ).tolist()  # else the whole table is judged
        trained = [row for row in self._trained(layers) if reached[row]]
        for row in (row for row, layer in enumerate(layers) if layer.kind == "embedding"):
            if positions is not None and row in positions.rows:
                continue
            least = max(self.threshold("rows") * frequent[row], _FEW_ROWS + 1)
            for count, symptom in ((without[row], "never get a gradient"), (zero[row], "stay exactly zero")):
                if count >= least and (row in trained or symptom != "never get a gradient"):
                    return self._of_rows(history, layers, row, float(frequent[row]), float(count), symptom, result)
            if measured[row] and between[row] >= self.threshold("padding") and not result.learned(0.8):
                message = (
                    f"{between[row]:.0%} of the padding that embedding {layers[row].name} looks up stands alone "
                    "between two other tokens: its padding index is a token, whose row is never trained or masked."
                )
                evidence = {"padding_between": float(between[row])}
                return self.finding(Severity.WARNING, 0.6, message, evidence, layers=names(history, [row]))
        return None

    def _of_rows(
        self,
        history: RunHistory,
        layers: Sequence[LayerInfo],
        row: int,
        frequent: float,
        count: float,
        symptom: str,
        result: Outcome,
    ) -> Finding:
        trainable = sum(layer.parameters for layer in layers)
        only = layers[row].parameters > trainable / 2 and any(layer.frozen for layer in layers)  # a few new tokens
        severity = Severity.INFO if only or result.learned(0.8) else Severity.WARNING
        poor = result.stuck(0.2) and not result.moving(0.1) and result.mature(self.threshold("schedule"))
        many = count >= _MANY * frequent
        over = many and result.known and not result.learned(0.5) and result.mature(self.threshold("schedule"))
        over = over and not result.moving(0.1)
        severity = result.worst if severity is Severity.WARNING and (poor or over) else severity
        message = (
            f"{count:.0f} of the {frequent:.0f} rows of embedding {layers[row].name} that occur often {symptom}, "
            f"{'and it is frozen' if layers[row].frozen else 'although it is trainable'}"
        )
        if severity is Severity.ERROR and result.words:
            message += f"; {result.words}"
        evidence = {"rows": count, "frequent_rows": frequent}
        return self.finding(severity, 0.7, message + ".", evidence, layers=names(history, [row]))

    @staticmethod
    def _trained(layers: Sequence[LayerInfo]) -> list[int]:
        return [
            row
            for row, layer in enumerate(layers)
            if layer.kind == "embedding" and layer.parameters > layer.unowned and not layer.frozen
        ]
