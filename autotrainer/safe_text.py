"""Text that is safe to print: whatever a name holds, it can't control a terminal, forge a line or flood the output.

Names of layers, metrics, files and plugins come from elsewhere. They are kept as they are, also in JSON, and made
safe where text is made of them: `str` of findings, plans, reports and errors, log messages, HTML, the command line.
"""

from __future__ import annotations

import re

__all__ = ["escaped", "safe_line", "safe_text"]

_LONGEST_WORD = 500
_LONGEST_LINE = 2_000

_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Characters that `str.isprintable` accepts although they show nothing."""
_LONG_WORD = re.compile(rf"\S{{{_LONGEST_WORD + 1},}}")


def escaped(text: str) -> str:
    """Return one line in which control, formatting and invisible characters are written as escape sequences.

    They include line breaks, marks that change the direction of text, zero-width characters and lone surrogates.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(c) for c in text)
    return _INVISIBLE.sub(lambda match: _escape(match[0]), text)


def safe_line(text: str) -> str:
    """Return `escaped` text with an ellipsis in place of the middle of long words, and of the line if it is long."""
    return _shortened(escaped(_shortened(text)))


def safe_text(text: str) -> str:
    r"""Return text of several lines, separated by ``\n``, each of them `escaped`."""
    return "\n".join(map(escaped, text.split("\n")))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _shortened(text: str) -> str:
    text = _LONG_WORD.sub(lambda match: _without_middle(match[0], _LONGEST_WORD, "…"), text)
    return _without_middle(text, _LONGEST_LINE, " … ")


def _without_middle(text: str, longest: int, ellipsis: str) -> str:
    if len(text) <= longest:
        return text
    end = longest // 3
    return text[: longest - end - len(ellipsis)] + ellipsis + text[-end:]
