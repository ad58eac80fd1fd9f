"""Where NaN or infinite values first appear, in words: from the history, or from a replay of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotrainer.records.facts import BAD_OPERATIONS, BAD_TENSORS, FACTS
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

__all__ = ["NONFINITE_FACTS", "Origin", "origin_in_history", "origin_in_replay"]

NONFINITE_FACTS = frozenset(name for name in FACTS if name.startswith("first_bad_"))

_EDGE = 1e-7
"""Distance from 0 and 1 within which a probability in single precision leaves no finite logarithm of p or 1 - p."""

_LARGEST_HALF = 65504.0  # largest number of half precision (IEEE 754 binary16)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where NaN or infinite values first appear.

    Attributes:
        layer: Name of the layer, or None.
        message: One plain sentence.
        evidence: Its numbers.
    """

    layer: str | None
    message: str
    evidence: Mapping[str, float]


def origin_in_history(history: RunHistory, context: TaskContext, since: int) -> Origin:
    """Return where the first sampled step with NaN or infinite values shows them.

    Within that step, what is computed first counts: weights (left by earlier steps), outputs in forward order, the
    loss, gradients in backward order.

    Args:
        history: The history.
        context: The training's model, loss, optimizer and data.
        since: First step with any such value.
    """
    weights, outputs = np.isinf(history.layer("weight_norm")), np.isinf(history.layer("activation_max_abs"))
    gradients, loss = np.isinf(history.layer("grad_norm")), np.isinf(history.scalar("loss"))
    model, total = np.isinf(history.scalar("output_max")), np.isinf(history.scalar("grad_norm"))
    bad = np.flatnonzero((weights | outputs | gradients).any(axis=1) | loss | model | total)
    if not bad.size:
        return Origin(None, f"The loss has been NaN or infinite since step {since}.", {})
    sample = int(bad[0])
    step, names = int(history.steps[sample]), [info.name for info in history.layers]
    state = f"been NaN or infinite since step {min(since, step)}"
    measured = f" (first measured in step {step})" if step > since else ""
    nonfinite = np.flatnonzero(weights[sample])
    first = model[sample] or np.isfinite(history.scalar("loss")[sample])  # before the loss, or after it
    logarithm = "" if first and not nonfinite.size else _logarithm(history, context, sample)
    if logarithm:
        subject = "weights" if nonfinite.size else "loss" if loss[sample] else "gradients"
        verb = "has" if subject == "loss" else "have"
        return Origin(None, f"The {subject} {verb} {state}{measured}: {logarithm}.", {})
    if nonfinite.size:
        name, more = names[nonfinite[0]], len(nonfinite) - 1
        others = f" (and {more} more layer{'s' if more > 1 else ''})" if more else ""
        after = ", after an earlier update that was not sampled" if step else ""
        message = f"The weights of layer {name}{others} have been NaN or infinite since step {step}{after}."
        if since < step:  # their update may have followed from that
            message = (
                f"The loss has been NaN or infinite since step {since}, and the weights of layer {name}{others} "
                f"were NaN or infinite when they were next measured, in step {step}."
            )
        return Origin(name, message, {})
    if outputs[sample].any():
        name = names[int(np.argmax(outputs[sample]))]
        return Origin(name, f"The outputs of layer {name} have {state}{measured}.", {})
    if model[sample]:
        return Origin(None, f"The outputs of the model have {state}{measured}.", {})
    if loss[sample]:
        unmeasured = np.isnan(history.scalar("output_max")[sample])
        but = "" if unmeasured else f", although the outputs are finite{measured}"
        return Origin(None, f"The loss has {state}{but}.", {})
    row = np.flatnonzero(gradients[sample])
    layer = names[int(row[-1])] if row.size else None
    of_layer = f" of layer {layer}" if layer else ""
    why = ", as at the root or the norm of 0" if context.loss.own else ""
    return Origin(layer, f"The gradients{of_layer} have {state}, although the loss is finite{measured}{why}.", {})


def _logarithm(history: RunHistory, context: TaskContext, sample: int) -> str:
    """Return why a logarithm in a custom loss may not be finite, by the outputs that were measured; else empty."""
    loss = context.loss
    if loss.aligns:
        return _alignment(history, sample)
    if not loss.own and not (loss.identified and loss.expects == "probabilities"):
        return ""
    low, high = (history.scalar(name)[: sample + 2] for name in ("output_min", "output_max"))
    finite = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    near = finite[finite >= sample]  # outputs logged after the optimizer's step count for the next one
    near = near if near.size else finite[-1:]
    if not near.size:
        return ""
    lowest, highest = float(low[near].min()), float(high[near].max())
    edges = [f"{edge:.0f}" for edge, gap in ((0, lowest), (1, 1 - highest)) if gap <= _EDGE]
    if lowest >= 0 and highest <= 1 and edges:
        return f"outputs have reached {' and '.join(edges)}, where the logarithm in a cross-entropy is not finite"
    if lowest < 0 and np.isinf(history.scalar("loss")[sample]) and near[0] == sample:
        return f"outputs are as low as {lowest:.3g}, where a logarithm or root in the loss is not finite"
    return ""


def _alignment(history: RunHistory, sample: int) -> str:
    """Return why the loss of a temporal classification (CTC) is infinite while the outputs are finite; else empty."""
    if not np.isinf(history.scalar("loss")[sample]):
        return ""
    return (
        "a target has no alignment, as it is longer than its input (equal neighbours take one more step); check the "
        "lengths that the loss gets, shorten the inputs less, or leave out such rows (PyTorch: zero_infinity=True)"
    )


def origin_in_replay(context: TaskContext) -> Origin | None:
    """Return the origin that a replay located, with the operation that produced it; None without a replay."""
    facts = context.asked
    if "first_bad_step" not in facts:
        return None
    tensor = BAD_TENSORS[int(facts["first_bad_tensor"])]
    row, after = facts.get("first_bad_layer", math.nan), bool(facts["first_bad_after"])
    layer = None if math.isnan(row) else context.layers[int(row)].name
    place = f"NaN or infinite values first appear in {_tensor_in_words(tensor, layer, after)}"
    operation = _operation_in_words(facts, tensor, context)
    cause = f", caused by {operation}" if operation else ""
    evidence = {name: facts[name] for name in sorted(NONFINITE_FACTS - _CODES) if name in facts}
    return Origin(layer, f"{place} in step {facts['first_bad_step']:.0f}{cause}.", evidence)


_CODES = frozenset(f"first_bad_{name}" for name in ("tensor", "layer", "after", "operation", "backward", "half"))


def _tensor_in_words(tensor: str, layer: str | None, after: bool) -> str:
    if tensor == "loss":
        return "the loss"
    if tensor in ("input", "target"):
        return f"the {tensor}s"
    if tensor == "output" and (after or layer is None):
        return f"values computed after layer {layer}" if layer else "values computed before the first layer"
    if tensor == "gradient" and (after or layer is None):
        return f"the gradients that reach layer {layer}" if layer else "the gradients of the loss"
    return f"the {tensor}s" + ("" if layer is None else f" of layer {layer}")


def _operation_in_words(facts: Mapping[str, float], tensor: str, context: TaskContext) -> str:
    """Return the operation that produced the value; empty if unknown."""
    kind = BAD_OPERATIONS[int(facts["first_bad_operation"])]
    lowest, highest, nearest = (facts.get(f"first_bad_{name}", math.nan) for name in ("lowest", "highest", "nearest"))
    backward, half = bool(facts["first_bad_backward"]), bool(facts["first_bad_half"])
    at_zero = nearest == 0 and not lowest < 0
    if kind in ("logarithm", "root") and backward:
        return f"a division by 0 in the backward pass, at a {kind} of 0"
    if kind == "logarithm" and tensor == "loss" and at_zero and context.loss.family == "cross_entropy":
        return "the cross-entropy of a probability that is exactly 0"
    largest = max(abs(lowest), abs(highest))
    precision = f" in half precision (largest number {_LARGEST_HALF:.0f})" if half else ""
    words = {
        "logarithm": "the logarithm of 0"
        if at_zero
        else f"the logarithm of a negative number (as low as {lowest:.3g})",
        "root": "the inverse root of 0" if at_zero else f"the root of a negative number (as low as {lowest:.3g})",
        "division": "a division by 0",
        "deviation": "a division by a variance or norm of 0",
        "softmax": "a softmax over only -inf, as when a mask excludes every position",
        "exponential": f"an overflow of the exponential of {highest:.3g}{precision}",
        "overflow": "an overflow" + (f" of values up to {largest:.3g}" if largest >= 0 else "") + precision,
    }
    operation = words.get(kind, "")
    return f"{operation} in the backward pass" if operation and backward else operation
