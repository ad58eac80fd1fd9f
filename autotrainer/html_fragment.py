"""Pieces of HTML that notebooks show: all text in them is escaped, and colors fit light and dark pages.

Text has the color of the page and lines are half transparent; what has a color of its own has its own background, too.
Styles are attributes, as notebooks share one page, and some of them drop style sheets.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from autotrainer.safe_text import safe_line, safe_text

__all__ = ["badge", "block", "card", "disclosure", "line", "meter", "preformatted"]

_COLORS = {"error": "#b3261e", "warning": "#8a5a00", "info": "#33658a", "good": "#2e6b34"}
"""Backgrounds on which white text has a contrast of at least 5:1."""


def line(text: object, *, quiet: bool = False) -> str:
    """Return text as one safe line; the lines of a block stand below each other."""
    style = ' style="opacity:.75"' if quiet else ""
    return f"<div{style}>{escape(safe_line(str(text)))}</div>"


def badge(kind: str, text: object) -> str:
    """Return text on a background.

    Args:
        kind: ``error``, ``warning``, ``info`` or ``good``.
        text: The text.
    """
    style = f"background:{_COLORS[kind]};color:#fff;border-radius:3px;padding:0 .45em;font-weight:600"
    return f'<span style="{style}">{escape(safe_line(str(text)))}</span>'


def block(parts: Iterable[str], kind: str = "") -> str:
    """Return pieces of HTML below each other, with a bar of a severity at their left if it is given."""
    color = _COLORS.get(kind, "transparent")
    style = f"border-left:4px solid {color};padding:.1em .8em;margin:.5em 0;overflow-wrap:anywhere;line-height:1.45"
    return f'<div style="{style}">{"".join(parts)}</div>'


def card(parts: Iterable[str]) -> str:
    """Return pieces of HTML as one output."""
    return f'<div style="line-height:1.45;max-width:60em">{"".join(parts)}</div>'


def disclosure(title: object, parts: Iterable[str]) -> str:
    """Return pieces of HTML that are shown once the title is chosen."""
    return f"<details><summary>{escape(safe_line(str(title)))}</summary>{''.join(parts)}</details>"


def meter(share: float) -> str:
    """Return a bar that is filled up to a share in [0, 1]."""
    percent = f"{100 * min(1.0, max(0.0, share)):.0f}"
    return (
        f'<div role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" '
        'style="background:rgba(128,128,128,.25);border-radius:3px;height:6px;margin:.3em 0;max-width:30em">'
        f'<div style="width:{percent}%;height:6px;border-radius:3px;background:#3d87d3"></div></div>'
    )


def preformatted(text: str) -> str:
    """Return text of several lines in a font of fixed width."""
    style = "background:rgba(128,128,128,.13);color:inherit;padding:.6em .8em;overflow-x:auto;white-space:pre"
    return f'<pre style="{style}">{escape(safe_text(text))}</pre>'
