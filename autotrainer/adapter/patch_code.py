"""Pieces of `Backend.patch` that are the same in every framework."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.edits import Edit, EncodeTargets, SwapOptimizer, WarmUpRate

__all__ = ["number_list", "optimizer_arguments", "warm_up_steps", "zero_one_line"]


def number_list(values: Sequence[float]) -> str:
    """Return numbers as a list in Python, six digits each."""
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def optimizer_arguments(edit: SwapOptimizer) -> str:
    """Return the arguments of an optimizer after its learning rate."""
    momentum = f", momentum={edit.momentum:g}" if edit.momentum else ""
    # written for AdamW even if it is 0: its default is another
    decay = f", weight_decay={edit.weight_decay:g}" if edit.weight_decay or edit.name == "adamw" else ""
    return momentum + decay


def warm_up_steps(edits: Sequence[Edit]) -> int:
    """Return the length of the warm-up among the edits of a plan, 0 without one."""
    return next((edit.steps for edit in edits if isinstance(edit, WarmUpRate)), 0)


def zero_one_line(name: str, edit: EncodeTargets) -> str:
    """Return the line that makes two labels 0 and 1 in an array of this name."""
    low, high = edit.labels
    moved = f"{name} {'-' if low > 0 else '+'} {abs(low):g}" if low else name
    return f"{name} = {moved}" if high - low == 1 else f"{name} = ({moved}) / {high - low:g}"
