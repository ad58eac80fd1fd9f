"""The first value that is not finite, in words: as the history shows it, or as a replay of the training found it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from autotrainer.records.facts import BAD_OPERATIONS, BAD_TENSORS, FACTS
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext

__all__ = ["FIRST_BAD_FACTS", "Place", "found_by_replay", "seen_in_history"]

FIRST_BAD_FACTS = frozenset(name for name in FACTS if name.startswith("first_bad_"))

_HALF = 65504.0  # largest number of half precision (IEEE 754 binary16)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the first value is that is not finite.

    Attributes:
        layer: Name of the layer, or None.
        told: One plain sentence.
        evidence: Numbers of it.
    """

    layer: str | None
    told: str
    evidence: Mapping[str, float]


def seen_in_history(history: RunHistory, since: int) -> Place:
    """Return the place at the first sampled step that shows one.

    What is made first in a step counts: weights (which the steps before have left), outputs in forward order, the
    loss, gradients in backward order.

    Args:
        history: The history.
        since: First step with any such value.
    """
    weights, outputs = np.isinf(history.layer("weight_norm")), np.isinf(history.layer("activation_max_abs"))
    gradients, loss = np.isinf(history.layer("grad_norm")), np.isinf(history.scalar("loss"))
    model, total = np.isinf(history.scalar("output_max")), np.isinf(history.scalar("grad_norm"))
    bad = np.flatnonzero((weights | outputs | gradients).any(axis=1) | loss | model | total)
    if not bad.size:
        return Place(None, f"Loss is not finite since step {since}.", {})
    sample = int(bad[0])
    seen, names = int(history.steps[sample]), [info.name for info in history.layers]
    when = f"are not finite since step {min(since, seen)}"
    where = f" (as seen in step {seen})" if seen > since else ""
    poisoned = np.flatnonzero(weights[sample])
    if poisoned.size:
        name = names[poisoned[0]]
        others = f" (and of {len(poisoned) - 1} more)" if len(poisoned) > 1 else ""
        left = ": a step before that, which was not looked at, has left them so" if seen else ""
        return Place(name, f"Weights of layer {name}{others} are not finite since step {seen}{left}.", {})
    if outputs[sample].any():
        name = names[int(np.argmax(outputs[sample]))]
        return Place(name, f"Outputs of layer {name} {when}{where}.", {})
    if model[sample]:
        return Place(None, f"Outputs of the model {when}{where}.", {})
    if loss[sample]:
        known = "" if np.isnan(history.scalar("output_max")[sample]) else f", although the outputs are{where}"
        return Place(None, f"Loss is not finite since step {min(since, seen)}{known}.", {})
    row = np.flatnonzero(gradients[sample])
    name = names[int(row[-1])] if row.size else None
    of = f" of layer {name}" if name else ""
    return Place(name, f"Gradients{of} {when}, although the loss is{where}.", {})


def found_by_replay(context: TaskContext) -> Place | None:
    """Return the place that a replay found, with what the value came out of; None without one."""
    facts = context.asked
    if "first_bad_step" not in facts:
        return None
    tensor = BAD_TENSORS[int(facts["first_bad_tensor"])]
    row, after = facts.get("first_bad_layer", math.nan), bool(facts["first_bad_after"])
    layer = None if math.isnan(row) else context.layers[int(row)].name
    what, verb = _what(tensor, layer, after)
    operation = _operation(facts, tensor, context)
    told = f"{what} {verb} the first to be not finite, in step {facts['first_bad_step']:.0f}"
    told = f"{told}: {operation}." if operation else f"{told}."
    evidence = {name: facts[name] for name in sorted(FIRST_BAD_FACTS - _CODES) if name in facts}
    return Place(layer, told, evidence)


_CODES = frozenset(f"first_bad_{name}" for name in ("tensor", "layer", "after", "operation", "backward", "half"))


def _what(tensor: str, layer: str | None, after: bool) -> tuple[str, str]:
    """Return the subject of a sentence, and its verb."""
    of = "" if layer is None else f" of layer {layer}"
    if tensor == "loss":
        return "The loss", "is"
    if tensor in ("input", "target"):
        return f"The {tensor}s", "are"
    if tensor == "output" and (after or layer is None):
        return (f"Values made after layer {layer}" if layer else "Values made before all layers"), "are"
    if tensor == "gradient" and (after or layer is None):
        return (f"Gradients that reach layer {layer}" if layer else "Gradients of the loss"), "are"
    return f"{tensor.capitalize()}s{of}", "are"


def _operation(facts: Mapping[str, float], tensor: str, context: TaskContext) -> str:
    """Return in words what the value came out of; empty if that is not known."""
    kind = BAD_OPERATIONS[int(facts["first_bad_operation"])]
    numbers = {name: facts.get(f"first_bad_{name}", math.nan) for name in ("lowest", "highest", "nearest")}
    lowest, highest = numbers["lowest"], numbers["highest"]
    backward, half = bool(facts["first_bad_backward"]), bool(facts["first_bad_half"])
    at_zero = numbers["nearest"] == 0 and not lowest < 0
    if kind in ("logarithm", "root") and backward:
        return f"the backward pass divides by 0, at a {kind} of 0"
    if kind == "logarithm" and tensor == "loss" and at_zero and context.loss.family == "cross_entropy":
        return "the cross-entropy of a probability that is exactly 0"
    largest = max(abs(lowest), abs(highest))
    ends = f", which ends at {_HALF:.0f}" if half else ""
    precision = f" in half precision{ends}" if half else ""
    words = {
        "logarithm": "the logarithm of 0"
        if at_zero
        else f"the logarithm of a negative number (as low as {lowest:.3g})",
        "root": "the root of 0, inverted" if at_zero else f"the root of a negative number (as low as {lowest:.3g})",
        "division": "a division by 0",
        "deviation": "a division by a variance or norm of 0",
        "softmax": "a softmax over nothing but -inf, as where a mask leaves nothing",
        "exponential": f"an exponential of {highest:.3g} overflows{precision}",
        "overflow": f"an overflow{precision}" + (f", of values up to {largest:.3g}" if largest >= 0 else ""),
    }
    told = words.get(kind, "")
    return f"{told} in the backward pass" if told and backward else told
