"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["share", "table"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def share(part: int, whole: int) -> str:
    """Return a share as ``part/whole (percent)``; "–" of nothing."""
    return f"{part}/{whole} ({100 * part / whole:.0f} %)" if whole else "–"
