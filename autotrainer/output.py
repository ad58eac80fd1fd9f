"""Output that can't fail: the logger ``autotrainer``, and standard error.

A full disk, a closed terminal, a broken pipe, an encoding without the characters needed, or a logging handler that
raises must never end a training. Only an `Exception` is suppressed: Ctrl-C and `sys.exit` go through.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, TextIO

from autotrainer.safe_text import safe_line, safe_text

__all__ = ["SafeStream", "encodable", "logger", "print_error"]

_LAST_RESORT = logging.lastResort


class SafeStream:
    """Writes to a text stream as far as that works; characters that its encoding lacks are escaped.

    Args:
        stream: The stream; None, as `sys.stderr` is without a console, discards everything.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:
        """Encoding of the stream."""
        encoding = getattr(self._stream, "encoding", None)
        return encoding if isinstance(encoding, str) else "utf-8"

    def isatty(self) -> bool:
        """Return whether it is known to be a terminal."""
        with suppress(Exception):
            return self._stream is not None and bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        """Return the file descriptor.

        Raises:
            OSError: If the stream has none.
        """
        with suppress(Exception):
            if self._stream is not None:
                return self._stream.fileno()
        raise io.UnsupportedOperation("fileno")

    def write(self, text: str) -> int:
        """Write text, at once."""
        with suppress(Exception):
            if self._stream is not None:
                _write(self._stream, encodable(text, self._stream))
        return len(text)

    def flush(self) -> None:
        """Do nothing: all text is written at once."""


def print_error(text: object) -> None:
    """Write lines to standard error as far as that works."""
    SafeStream(sys.stderr).write(f"{safe_text(str(text))}\n")


def _write(stream: TextIO, text: str) -> None:
    if type(stream) is not io.TextIOWrapper or type(stream.buffer) is not io.BufferedWriter:
        stream.write(text)
        stream.flush()
        return
    # Past the buffer: what can't be written would stay there, and change the exit status of the process to 120 when
    # Python tries to flush it at the end.
    stream.flush()
    data = text.encode(stream.encoding, stream.errors or "strict")
    while data and (written := stream.buffer.raw.write(data)):
        data = data[written:]


def encodable(text: str, stream: Any) -> str:
    """Return text that a stream can encode: other characters are escaped."""
    encoding = getattr(stream, "encoding", None)
    if not isinstance(encoding, str):
        return text
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeError:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    return text


class _SafeLogging(logging.Logger):
    """A logger whose handlers, filters, record factory and arguments can't raise into the caller."""

    def _log(self, level: int, msg: object, args: Any, *rest: Any, **options: Any) -> None:
        options["stacklevel"] = options.get("stacklevel", 1) + 1  # the caller is one frame further away
        with suppress(Exception):
            super()._log(level, msg, args, *rest, **options)

    def handle(self, record: logging.LogRecord) -> None:
        """Pass a record to the handlers, as one safe line that all of them can write."""
        text = safe_line(_text(record))
        for handler in self._all_handlers():
            with suppress(Exception):  # an encoding that does not exist: the handler then fails, too
                text = encodable(text, getattr(handler, "stream", None) or handler)
        if text != _text(record):
            record.msg, record.args = text, None
        if logging.lastResort is not _LAST_RESORT or self.hasHandlers():
            super().handle(record)
        elif _LAST_RESORT is not None and record.levelno >= _LAST_RESORT.level and self.filter(record):
            print_error(text)

    def _all_handlers(self) -> Iterator[logging.Handler]:
        """Yield the handlers that get the records."""
        logger: logging.Logger | None = self
        while logger is not None:
            yield from logger.handlers
            logger = logger.parent if logger.propagate else None


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - an argument without text, such as an exception of the user's code
        arguments = record.args if isinstance(record.args, tuple) else ()
        record.args = tuple(v if isinstance(v, str | int | float) else _repr(v) for v in arguments)
        return record.getMessage()


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the type always has a name
        return f"<{type(value).__name__}>"


def _safe_logger() -> logging.Logger:
    """Return the logger ``autotrainer``, which the application may have created and configured before."""
    named = logging.getLogger("autotrainer")
    if not isinstance(named, _SafeLogging):
        kind = type(named)
        named.__class__ = _SafeLogging if kind is logging.Logger else type(kind.__name__, (_SafeLogging, kind), {})
    return named


logger = _safe_logger()
"""Everything of this package that obtains the logger ``autotrainer`` gets this object."""
