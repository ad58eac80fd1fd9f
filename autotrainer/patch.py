"""A repair plan in words and as lines to paste into one's own code."""

from __future__ import annotations

from autotrainer.plan import RepairPlan

__all__ = ["describe"]


def describe(plan: RepairPlan) -> str:
    """Return what to change in one's own code."""
    return "\n".join(repr(edit) for edit in plan.edits)
