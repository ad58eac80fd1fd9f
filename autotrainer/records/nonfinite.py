"""The first value of a training that is not finite: where it appeared, and which operation produced it.

A backend that replays a training step by step fills in `FirstNonfinite`; rules read it as facts of `TaskContext.asked`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autotrainer.records.facts import BAD_OPERATIONS, BAD_TENSORS
from autotrainer.records.signals import LayerInfo

__all__ = ["FirstNonfinite", "Location", "Operation", "first_nonfinite", "is_intended", "kind_of_operation"]

_KINDS = (  # part of an operation's lower-case name → kind; the first match counts
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
"""Operations that return uninitialized memory, or pass values on unchanged."""
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
"""Operations that write given values: infinity is intended there, as in attention masks."""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation that produced a value that is not finite.

    Attributes:
        kind: One of `BAD_OPERATIONS`.
        lowest: Smallest input value; NaN if unknown.
        highest: Largest input value; NaN if unknown.
        nearest: Smallest magnitude in the last input, which is the divisor of a division; NaN if unknown.
        half: Whether the result has half precision (float16), whose largest value is 65504.
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
    """The location of a tensor in a training step; see `FirstNonfinite`."""

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
        after: Whether other code produced it, after that layer had run (before all layers if ``layer`` is None).
        operation: The operation that produced it.
    """

    step: int
    tensor: str
    layer: str | None = None
    after: bool = False
    operation: Operation = field(default_factory=Operation)

    def facts(self, layers: Sequence[LayerInfo]) -> dict[str, float]:
        """Return it as facts by name: see `autotrainer.records.facts.FACTS`.

        Args:
            layers: The layers of the context that the facts are for.
        """
        rows = {info.name: float(row) for row, info in enumerate(layers)}
        operation = self.operation
        facts = {
            "first_bad_step": float(self.step),
            "first_bad_tensor": float(BAD_TENSORS.index(self.tensor)),
            "first_bad_layer": rows.get(self.layer or "", math.nan),
            "first_bad_after": float(self.after),
            "first_bad_operation": float(BAD_OPERATIONS.index(operation.kind)),
            "first_bad_backward": float(operation.backward),
            "first_bad_half": float(operation.half),
            "first_bad_lowest": operation.lowest,
            "first_bad_highest": operation.highest,
            "first_bad_nearest": operation.nearest,
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
        weight_before: First non-finite weight before the step, or None.
        loss_is_finite: Whether the loss is finite.
        forward: First non-finite tensor of the forward pass, or None.
        gradient: First non-finite gradient, or None.
        weight_after: First non-finite weight after the step, or None.
        operations: First operation with a non-finite result in each part of the step: ``forward``, ``backward``,
            ``update``.
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
    """Return whether values that are not finite are intended in the output of an operation.

    Args:
        name: Its name in the framework.
        nan: Whether the output holds a NaN, which is never written on purpose.
    """
    name = name.lower()
    return any(part in name for part in _PASSED_ON) or (not nan and any(part in name for part in _FILLS))


def kind_of_operation(name: str, values: Mapping[str, float], *, nan: bool, backward: bool) -> str:
    """Classify an operation as one of `BAD_OPERATIONS` by its name, inputs and output.

    Args:
        name: Its name in the framework; in the backward pass together with that of the forward operation.
        values: ``lowest``, ``highest`` and ``nearest``: see `Operation`.
        nan: Whether the output holds a NaN, rather than only infinities.
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
        "exponential": not backward and highest > 10,  # half precision overflows at exp(11.1)
    }
    return kind if possible.get(kind, False) else "overflow"
