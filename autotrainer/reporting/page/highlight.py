"""Lines of Python code as spans that a stylesheet colors."""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterator, Sequence
from html import escape

__all__ = ["highlighted"]

_CLASSES = {tokenize.STRING: "string", tokenize.NUMBER: "number", tokenize.COMMENT: "comment"}


def highlighted(lines: Sequence[str]) -> str:
    """Return lines of code as HTML; without colors where they are not Python by themselves."""
    code = "\n".join(lines)
    try:
        return "".join(_spans(code, lines))
    except (tokenize.TokenError, SyntaxError):
        return escape(code)


def _spans(code: str, lines: Sequence[str]) -> Iterator[str]:
    row, column = 1, 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        kind = "keyword" if keyword.iskeyword(token.string) else _CLASSES.get(token.type)
        if kind is None:
            continue
        yield escape(_between(lines, (row, column), token.start))
        yield f'<span class="{kind}">{escape(token.string)}</span>'
        row, column = token.end
    yield escape(_between(lines, (row, column), (len(lines), len(lines[-1]) if lines else 0)))


def _between(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return the text between two places, each a 1-based line and a 0-based column."""
    if start[0] >= end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    rest = lines[start[0] : end[0] - 1]
    return "\n".join([lines[start[0] - 1][start[1] :], *rest, lines[end[0] - 1][: end[1]]])
