"""Numbers in the words of a message."""

from __future__ import annotations

__all__ = ["about"]

_LONG = 1e6
"""Size from which a number is told by its power of ten."""


def about(value: float, digits: int = 2) -> str:
    """Return a number with that many significant digits; large ones written out, as 1400 and not 1.4e+03.

    >>> about(1387.0), about(0.01234), about(2.5e9), about(-4290.0, 3)
    ('1400', '0.012', '2.5e+09', '-4290')
    """
    rounded = f"{value:.{digits}g}"
    return f"{float(rounded):.0f}" if "e+" in rounded and abs(value) < _LONG else rounded
