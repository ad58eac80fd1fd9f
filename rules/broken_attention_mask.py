"""AT209: outputs that depend on tokens that a mask should hide."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.layers import names
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS, outcome
from autotrainer.rules._shared.trends import last_median

__all__ = ["BrokenAttentionMask"]

_LATER = ("later_effect", "later_noise", "later_reach", "earlier_effect", "earlier_noise", "predicts_next")
_PADDING = ("padding_effect", "padding_noise", "padding_masked", "padding_declared", "attention")

_SAMPLES = 3
"""Sampled steps from which a mask that shows padding alone is no chance of a batch."""

_MEANING = (
    "In PyTorch, key_padding_mask is True where a key is left out, and attn_mask of scaled_dot_product_attention where "
    "it counts; in Keras, attention_mask is True where it counts."
)


class BrokenAttentionMask(Rule):
    """A later token changes an earlier output, or padding changes the outputs of the tokens before it.

    What it does
        On a copy of the model in evaluation mode, exchanges the last tokens of a few sequences and compares the outputs
        before them; and exchanges, or takes away, the padding at their end and compares the outputs of the tokens. It
        also exchanges the first tokens and compares the last output. Without a copy, it looks at how much of their
        attention the last queries of a training step give to later tokens.

    Why it hurts
        A model that is trained to predict the next token at all positions at once copies it if it can see it: the loss
        falls to almost nothing, and the model can't generate. A mask that hides too much leaves it without context.
        Padding that is attended to makes a prediction depend on the length of the longest sequence in its batch.

    Evidence used
        The largest change of outputs that should stay, relative to the change of those that the tokens belong to, and
        the rounding error in the same unit. Later tokens count only if the targets are the next inputs, or the loss
        that the model returns is the cross-entropy with its next inputs: other models may look ahead. In a training
        step, attention is measured where queries, keys and masks are known, and the last quarter of queries counts, as
        a prefix may be meant to be read as a whole. A mask is the wrong way round where, in all sampled steps, the keys
        that it shows are of one token, and those that it hides of others.

    Thresholds
        ``leak``: relative change by a later token from which it is an error; ``ahead``: share of attention on later
        tokens; ``padding``: relative change by padding.

    When it is wrong
        Padding may be meant to count, in models without attention or masks: that is a note. Where a mask is an input,
        an embedding layer declares a token as padding, or the model has attention, it is a warning, and an error if the
        outcome is poor as well. Padding without a mask is looked for at the end of sequences only.

    Repairs
        Advice only: pass a causal mask (``is_causal=True``, ``use_causal_mask=True``), a padding mask
        (``key_padding_mask``, ``attention_mask``, ``mask_zero=True``) that all layers pass on; causal padding for
        convolutions, and no bidirectional layers.

    References
        Vaswani et al., Attention Is All You Need, NeurIPS 2017 (masked self-attention); Jahan et al., DEFault++,
        arXiv 2604.28118 (mask faults of transformers).
    """

    problem = "broken_attention_mask"
    code = "AT209"
    aliases = ("causal_mask", "attention_mask", "padding_mask", "future_leak", "missing_causal_mask")
    phrases = (
        "model sees the future tokens",
        "causal mask missing",
        "padding is attended to",
        "loss goes to zero but generation is garbage",
        "attention mask ignored",
        "prediction changes with padding",
    )
    needs = OUTCOME_NEEDS | frozenset((*_LATER, *_PADDING, "next_targets", "attention_ahead", "padding_shown"))
    static = True
    THRESHOLDS = thresholds(
        leak=Threshold(1e-3, "relative change by a later token", "a hundred times rounding in single precision"),
        ahead=Threshold(0.01, "share of attention on later tokens", "a causal mask leaves none", maximum=1.0),
        padding=Threshold(0.01, "relative change by padding", "less than a hundredth of what a token changes"),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        return (
            self._causality(context)
            or self._ahead(history, context)
            or self._inverted(history)
            or self._padding(history, context)
        )

    def _inverted(self, history: RunHistory) -> Finding | None:
        """Return a finding if a mask hides the tokens and shows their padding."""
        shown = history.layer("padding_shown")
        measured = np.isfinite(shown).sum(axis=0)
        rows = np.flatnonzero((np.nansum(shown, axis=0) == measured) & (measured >= _SAMPLES))
        if not len(rows):
            return None
        affected, samples = names(history, [int(row) for row in rows]), int(measured[rows].max())
        message = (
            f"The mask of {affected[0]} is the wrong way round: in all {samples} sampled steps, the keys that it shows "
            f"are of one and the same token, as padding is, and the keys that it hides are of others. {_MEANING}"
        )
        return self.finding(Severity.ERROR, 0.95, message, {"samples": float(samples)}, layers=affected)

    def _ahead(self, history: RunHistory, context: TaskContext) -> Finding | None:
        """Return a finding if queries attend to the tokens that they are trained to predict."""
        following = history.scalar("next_targets")
        following = following[np.isfinite(following)]
        if not len(following) or not (following == 1).all() or context.loss.weighted or not len(history.layers):
            return None
        shares = last_median(history.layer("attention_ahead"))
        measured = shares[np.isfinite(shares)]
        if not len(measured) or not (measured > self.threshold("ahead")).all():
            return None  # beside causal layers, others may look at an encoder, or at other inputs
        row = int(np.nanargmax(shares))
        affected = names(history, [int(r) for r in np.flatnonzero(shares > self.threshold("ahead"))])
        name = history.layers[row].name
        message = (
            f"The queries of {name} give {shares[row]:.2g} of their attention to later tokens: the model is trained to "
            "predict the next token, and can see it. "
            f"{_advice(context)}"
        )
        return self.finding(Severity.ERROR, 0.95, message, {"ahead": float(shares[row])}, layers=affected)

    def _causality(self, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _LATER}
        if evidence["predicts_next"] != 1:
            return None
        if evidence["later_effect"] > max(evidence["later_noise"], self.threshold("leak")):
            reach = f", by the last token alone at {evidence['later_reach']:.0f} positions" * bool(
                evidence["later_reach"]
            )
            message = (
                f"Later tokens change earlier outputs, by {evidence['later_effect']:.2g} of what they change at their "
                f"own positions{reach}: the model is trained to predict the next token, and can see it. "
                f"{_advice(context)}"
            )
            return self.finding(Severity.ERROR, 0.97, message, evidence)
        if evidence["earlier_effect"] <= evidence["earlier_noise"] < 1 and _looks_back(context):
            message = (
                "No earlier token changes the last output: each output depends on its own token alone, as if the mask "
                "hid all others; check that the mask has the form that the attention layer takes."
            )
            return self.finding(Severity.ERROR, 0.9, message, evidence)
        return None

    def _padding(self, history: RunHistory, context: TaskContext) -> Finding | None:
        evidence = {name: context.asked.get(name, math.nan) for name in _PADDING}
        effect, noise, masked, declared, attention = evidence.values()
        if not effect > max(noise, self.threshold("padding")):
            return None
        who = "although an input says which tokens are padding" if masked else ""
        who = who or (
            "although an embedding layer declares the token as padding" if declared else "as no mask hides it"
        )
        message = (
            f"Padding changes the outputs of the tokens before it, by {effect:.2g} of what another token does, {who}"
        )
        if not (masked or attention):
            return self.finding(Severity.INFO, 0.6, f"{message}; this may be meant.", evidence)
        result = outcome(history, context)
        poor = result.known and result.stuck(0.2) and not result.moving() and result.mature(0.5)
        severity = result.worst if poor else Severity.WARNING
        advice = "pass the mask on to every attention layer, and to the pooling"
        words = f", and {result.words}" if severity is Severity.ERROR else ""
        return self.finding(severity, 0.85 if masked or declared else 0.7, f"{message}{words}; {advice}.", evidence)


def _has_kind(context: TaskContext, *kinds: str) -> bool:
    return any(layer.kind in kinds for layer in context.layers)


def _advice(context: TaskContext) -> str:
    if context.asked.get("attention") or _has_kind(context, "attention"):
        return "Pass a causal mask to every attention layer."
    if _has_kind(context, "recurrent"):
        return "Use no bidirectional layer."
    return "Use causal padding." if _has_kind(context, "conv") else "Let each output see the tokens before it alone."


def _looks_back(context: TaskContext) -> bool:
    """Return whether the model has layers that are there to look at other tokens."""
    return bool(context.asked.get("attention")) or _has_kind(context, "attention", "recurrent")
