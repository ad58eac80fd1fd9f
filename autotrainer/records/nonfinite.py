"""The first value of a training that is not finite: where it arose, and what operation it came out of.

A backend that replays a training step by step fills in `FirstNonfinite`; rules read it as facts of `TaskContext.asked`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotrainer.records.facts import BAD_OPERATIONS, BAD_TENSORS
from autotrainer.records.signals import LayerInfo

__all__ = ["FirstNonfinite", "Location", "Operation", "first_nonfinite", "is_intended", "kind_of_operation"]

_KINDS = (  # part of an operation's name in lower case → kind; the first that fits
    ("expand", "overflow"),
    ("logsumexp", "overflow"),
    ("softmax", "softmax"),
    ("sqrt", "root"),
    ("pow", "power"),
    ("norm", "deviation"),
    ("std", "deviation"),
    ("log", "logarithm"),
    ("div", "division"),
    ("reciprocal", "division"),
    ("exp", "exponential"),
)
_LARGE = 1e18
"""Magnitude from which squares overflow in single precision."""
_PASSED_ON = ("empty", "resize", "set_", "readvariable", "iterator")
"""Memory that nothing has been written to yet, and what hands values on as they are."""
_FILLS = (
    "fill",
    "full",
    "where",
    "select",
    "scatter",
    "index_put",
    "constant",
    "zeros",
    "ones",
    "pad",
    "scalar_tensor",
)
"""What puts values where it is told to: infinity is meant there, as in masks of attention."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that made a value that is not finite.

    Attributes:
        kind: One of `BAD_OPERATIONS`.
        lowest: Smallest value that went in; NaN if unknown.
        highest: Largest value.
        nearest: Magnitude of the value closest to 0 in what went in last: a divisor, where it is a division.
        half: Whether the result has half precision (float16), which ends at 65504.
        backward: Whether it belongs to the backward pass.
    """

    kind: str = "unknown"
    lowest: float = math.nan
    highest: float = math.nan
    nearest: float = math.nan
    half: bool = False
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Location:
    """A tensor of a step.

    Attributes:
        tensor: One of `BAD_TENSORS`.
        layer: Name of the layer that it belongs to, or None.
        after: Whether it is made by other code, after that layer has run (before all layers without one).
    """

    tensor: str
    layer: str | None = None
    after: bool = False


@dataclass(frozen=True, slots=True)
class FirstNonfinite:
    """The first tensor that is not finite.

    Attributes:
        step: 0-based optimizer step.
        tensor: One of `BAD_TENSORS`.
        layer: Name of the layer that it belongs to, or None.
        after: Whether it is made by other code, after that layer has run (before all layers without one).
        operation: What it came out of.
    """

    step: int
    tensor: str
    layer: str | None = None
    after: bool = False
    operation: Operation = field(default_factory=Operation)

    def facts(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return it as facts: see `autotrainer.records.facts.FACTS`.

        Args:
            layers: The layers of the context that the facts are for.
        """
        rows = {info.name: float(row) for row, info in enumerate(layers)}
        made = self.operation
        facts = {
            "first_bad_step": float(self.step),
            "first_bad_tensor": float(BAD_TENSORS.index(self.tensor)),
            "first_bad_layer": rows.get(self.layer or "", math.nan),
            "first_bad_after": float(self.after),
            "first_bad_operation": float(BAD_OPERATIONS.index(made.kind)),
            "first_bad_backward": float(made.backward),
            "first_bad_half": float(made.half),
            "first_bad_lowest": made.lowest,
            "first_bad_highest": made.highest,
            "first_bad_nearest": made.nearest,
        }
        return {name: value for name, value in facts.items() if math.isfinite(value)}


def first_nonfinite(
    step: int,
    *,
    weight_before: Location | None,
    loss_is_finite: bool,
    forward: Location | None,
    gradient: Location | None,
    weight_after: Location | None,
    operations: Mapping[str, Operation],
) -> FirstNonfinite | None:
    """Return the first tensor of a training step that is not finite, or None.

    Args:
        step: 0-based number of the step.
        weight_before: First weight that was not finite before the step: an earlier step, or the start, has made it so.
        loss_is_finite: Whether the loss is.
        forward: First such tensor of the forward pass.
        gradient: First such tensor of the backward pass.
        weight_after: First weight that is not finite after the step.
        operations: First operation with such a result in each part of the step: ``forward``, ``backward``, ``update``.
    """
    operation = None
    if weight_before is not None:
        step, location = max(0, step - 1), weight_before
    elif not loss_is_finite:
        location = forward or Location("loss")
        if location.tensor not in ("input", "target"):
            operation = operations.get("forward") or operations.get("update")
    elif weight_after is not None:
        location = gradient or weight_after
        operation = operations.get("update" if gradient is None else "backward")
    else:
        return None
    return FirstNonfinite(step, location.tensor, location.layer, location.after, operation or Operation())


def is_intended(name: str, *, nan: bool) -> bool:
    """Say whether an operation may put out what is not finite without any harm.

    Args:
        name: Its name in the framework.
        nan: Whether there is a NaN, which nothing puts anywhere on purpose.
    """
    name = name.lower()
    return any(part in name for part in _PASSED_ON) or (not nan and any(part in name for part in _FILLS))


def kind_of_operation(name: str, values: Mapping[str, float], *, nan: bool, backward: bool) -> str:
    """Return which of `BAD_OPERATIONS` one was, by its name, by what went in and by what came out.

    Args:
        name: Its name in the framework; in the backward pass with that of the operation it is the gradient of.
        values: ``lowest``, ``highest`` and ``nearest``: see `Operation`.
        nan: Whether a NaN came out, rather than infinity alone.
        backward: Whether it belongs to the backward pass.
    """
    name = name.lower()
    lowest, highest, nearest = values["lowest"], values["highest"], values["nearest"]
    largest = max(abs(lowest), abs(highest))
    kind = next((kind for part, kind in _KINDS if part in name), "overflow")
    if kind == "power":
        return "root" if nan or (nearest == 0 and (backward or largest <= 100)) else "overflow"
    possible = {
        "softmax": nan and math.isinf(lowest),
        "root": nearest == 0 or (nan and lowest < 0 and not backward),
        "logarithm": nearest == 0 or (nan and lowest < 0 and not backward),
        "division": nearest == 0,
        "deviation": nan and largest < _LARGE,
        "exponential": not backward and highest > 10,  # half precision ends at exp(11.1)
    }
    return kind if possible.get(kind, False) else "overflow"
