"""Numbers as messages print them."""

from __future__ import annotations

__all__ = ["about"]

_EXPONENT_FROM = 1e6
"""Magnitude from which a number is printed with an exponent."""


def about(value: float, digits: int = 2) -> str:
    """Return a number with this many significant digits, written out below a million: 1400, not 1.4e+03.

    >>> about(1387.0), about(0.01234), about(2.5e9), about(-4290.0, 3)
    ('1400', '0.012', '2.5e+09', '-4290')
    """
    rounded = f"{value:.{digits}g}"
    return f"{float(rounded):.0f}" if "e+" in rounded and abs(value) < _EXPONENT_FROM else rounded
