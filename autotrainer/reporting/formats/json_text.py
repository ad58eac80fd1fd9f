"""JSON that every parser accepts."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["indented", "json_text"]

_ENTRY = r'(?:-?[\d.e+-]+|null|"-?inf"|"nan")'
_NUMBERS = re.compile(rf"\[\n\s+{_ENTRY}(?:,\n\s+{_ENTRY})*\n\s+\]")
"""A list of numbers as `json.dumps` indents it; no string holds a line break."""


def json_text(value: Any) -> str:
    """Return strict JSON in ASCII; lone surrogates, as in undecodable file names, become U+FFFD.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return indented(json.loads(valid))


def indented(value: Any) -> str:
    """Return strict JSON in ASCII, with each list of numbers on one line.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    return _NUMBERS.sub(lambda match: f"[{', '.join(match[0][1:-1].replace(',', ' ').split())}]", text)
