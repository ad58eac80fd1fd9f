"""Files of records, one JSON object a line, each with a checksum; read strictly, whatever the file holds.

The checksum ``crc`` ends each line: the CRC-32 of all lines so far, without the checksums. So it shows a changed byte,
and a line that is missing, repeated or in another place. It protects against damage, not against forgery: whoever
writes a file can write its checksums.

An incomplete last line, as a crash leaves it, is no damage: it is skipped with a logged warning.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from io import BufferedReader
from os import PathLike
from typing import Any, TextIO

from autotrainer.errors import LogError
from autotrainer.output import logger
from autotrainer.records.schema import RecordError
from autotrainer.records.untrusted_files import open_regular, unique_keys

__all__ = ["Line", "LineFormat", "LineReader", "LineWriter", "NoLineError", "encode_line", "read_lines"]

_MAX_VALUES = 2**21
"""Maximum number of values in a line: they take at most 150 MB, beside their text."""

_SUFFIX = len(',"crc":"00000000"}')
_MAX_DIGITS = 40
_MAX_DEPTH = 20

_STRING_OR_BRACKET = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


class NoLineError(LogError):
    """A file without any complete line."""


@dataclass(frozen=True, slots=True)
class LineFormat:
    """A kind of file.

    Attributes:
        kind: Its name, for messages.
        mark: Key of the header, the first line, under which it has the version of the format.
        version: Version that is written.
        hint: Which file to pass instead of one that is not of this kind, for messages.
        unchecked: Earlier versions, without checksums, that can be read.
        longest: Maximum length of a line in bytes.
    """

    kind: str
    mark: str
    version: int
    hint: str
    unchecked: tuple[int, ...] = ()
    longest: int = 2**25


@dataclass(frozen=True, slots=True)
class Line:
    """A line that has been read.

    Attributes:
        path: The file.
        form: Its kind.
        number: Its number, from 1.
        record: Its content.
        end: Position behind it in the file, in bytes.
        checksum: The checksum up to here, from which a `LineWriter` continues.
    """

    path: str | PathLike[str]
    form: LineFormat
    number: int
    record: dict[str, Any]
    end: int
    checksum: int

    def damaged(self, error: RecordError) -> LogError:
        """Return the error for a line whose content makes no sense."""
        return _damaged(self.path, self.form, self.number, error)


class LineWriter:
    """Appends lines to an open file, each at once.

    A line that could not be written to its end, because of Ctrl-C for instance, is removed before the next one.

    Args:
        file: The file, whose buffer is not used.
        form: Its kind.
        last: Its last line, behind which everything is removed; None for a new file.
    """

    def __init__(self, file: TextIO, form: LineFormat, last: Line | None = None) -> None:
        self.file = file
        self._form = form
        self._end = (0, 0) if last is None else (last.end, last.checksum)
        self._clean = last is None

    def write(self, text: str) -> None:
        """Append a record.

        Args:
            text: A JSON object that is not empty, in ASCII, without line breaks.

        Raises:
            OSError: If it can't be written.
            LogError: If it is too long to be read back.
        """
        end, checksum = self._end
        line, checksum = encode_line(text, checksum)
        try:
            _check_size(line, self._form.longest)
        except RecordError as error:
            raise LogError(f"a line of the {self._form.kind} can't be written: {error}") from error
        descriptor, rest = self.file.fileno(), memoryview(line)
        if not self._clean:
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
        self._clean = False
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        self._end = end + len(line), checksum
        self._clean = True


def encode_line(text: str, checksum: int) -> tuple[bytes, int]:
    """Return a record as a line, and the checksum up to it.

    Args:
        text: A JSON object that is not empty, in ASCII, without line breaks.
        checksum: The checksum up to the line before; 0 for the first.
    """
    body = text[:-1].encode("ascii")
    checksum = zlib.crc32(body, checksum)
    return b'%s,"crc":"%08x"}\n' % (body, checksum), checksum


class LineReader:
    """Reads a file that may still grow: each `read` continues behind the last complete line of the one before.

    Args:
        path: The file.
        form: What kind of file it must be.

    Attributes:
        number: Number of lines read.
        end: Position behind them in the file, in bytes.
        incomplete: Whether an incomplete line was behind them.
    """

    def __init__(self, path: str | PathLike[str], form: LineFormat) -> None:
        self.path, self.form = path, form
        self.number = self.end = 0
        self.incomplete = False
        self._checksum, self._checked = 0, True
        self._identity: tuple[int, int] | None = None

    def read(self) -> Generator[Line]:
        """Read the complete lines that have not been read.

        Memory stays within a small multiple of the longest line that is allowed.

        Yields:
            The lines; one that is not taken from here is not read.

        Raises:
            LogError: If the file is not a regular file or can't be read, is of another kind, or a complete line is
                damaged; says which line, and what to do. Also if lines that were read are gone.
        """
        path, form = self.path, self.form
        with _open(path, form) as file:
            self._check_same(file)
            file.seek(self.end)
            while True:
                try:
                    line = file.readline(form.longest + 2)
                except OSError as error:
                    raise _unreadable(path, form, error) from error
                if not line.endswith(b"\n") and len(line) <= form.longest:
                    self.incomplete = bool(line)
                    return
                text = line.removesuffix(b"\n").removesuffix(b"\r")  # as some programs end lines when they copy a file
                try:
                    _check_size(text, form.longest)
                    record = _parse(text)
                    if self.number == 0:
                        self._checked = _is_checked(record, form)
                    if self._checked:
                        checksum = zlib.crc32(text[:-_SUFFIX], self._checksum)
                        if text[-_SUFFIX:] != b',"crc":"%08x"}' % checksum:
                            raise RecordError("its checksum is wrong: it was changed, or a line before it is missing")
                        self._checksum = checksum
                except RecordError as error:
                    raise _damaged(path, form, self.number + 1, error) from error
                record.pop("crc", None)
                self.number, self.end = self.number + 1, self.end + len(line)
                yield Line(path, form, self.number, record, self.end, self._checksum)

    def _check_same(self, file: BufferedReader) -> None:
        status = os.fstat(file.fileno())
        identity = status.st_dev, status.st_ino
        if self._identity not in (None, identity) or status.st_size < self.end:
            raise LogError(f"{self.path} has been replaced or shortened since it was read: read it from its start")
        self._identity = identity


def read_lines(path: str | PathLike[str], form: LineFormat) -> Generator[Line]:
    """Read a file line by line, the header first; see `LineReader.read`.

    Args:
        path: The file.
        form: What kind of file it must be.

    Yields:
        The complete lines.

    Raises:
        LogError: If it can't be read, is of another kind, has no complete line, or a complete line is damaged.
    """
    reader = LineReader(path, form)
    yield from reader.read()
    if not reader.number:
        raise NoLineError(f"{path} is empty or has no complete line: {form.hint}")
    if reader.incomplete:
        logger.warning("%s: the last line is incomplete, as after a crash, and is skipped", path)


def _open(path: str | PathLike[str], form: LineFormat) -> BufferedReader:
    try:
        return open_regular(path)
    except (OSError, TypeError, ValueError) as error:
        raise _unreadable(path, form, error) from error


def _parse(text: bytes) -> dict[str, Any]:
    _check_depth(text)
    try:
        record = json.loads(
            text.decode("ascii"), object_pairs_hook=unique_keys, parse_int=_whole, parse_constant=_constant
        )
    except RecordError:
        raise
    except json.JSONDecodeError as error:
        raise RecordError(f"{error.msg} at character {error.pos + 1}") from error
    except UnicodeDecodeError as error:
        raise RecordError(f"byte {error.start + 1} is not ASCII") from error
    except ValueError as error:
        raise RecordError(str(error)) from error
    if type(record) is not dict:
        raise RecordError("it is not an object")
    return record


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise RecordError(f"a number has more than {_MAX_DIGITS} digits")
    return int(digits)


def _constant(name: str) -> float:
    raise RecordError(f"{name} is not a number of JSON")


def _check_size(text: bytes, longest: int) -> None:
    if len(text) > longest:
        raise RecordError(f"it is longer than {longest} bytes")
    if len(text) > 2 * _MAX_VALUES and sum(map(text.count, (b",", b"[", b"{"))) > _MAX_VALUES:
        raise RecordError(f"it holds more than {_MAX_VALUES} values")


def _check_depth(text: bytes) -> None:
    """Refuse deep nesting before `json` meets it, whose limit is that of the interpreter, which users may raise."""
    if text.count(b"[") + text.count(b"{") <= _MAX_DEPTH:
        return
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        first = text[token.start()]
        depth += (first in b"[{") - (first in b"]}")
        if depth > _MAX_DEPTH:
            raise RecordError(f"it is nested more than {_MAX_DEPTH} deep")


def _is_checked(header: dict[str, Any], form: LineFormat) -> bool:
    """Return whether the lines of a file have checksums, by its header."""
    version = header.get(form.mark)
    if type(version) is int and version == form.version:
        return True
    if type(version) is int and version in form.unchecked and "crc" not in header:
        return False
    raise RecordError(f"its format is {version}" if type(version) is int else "its first line is another one")


def _unreadable(path: object, form: LineFormat, error: object) -> LogError:
    return LogError(f"can't read the {form.kind} {path}: {error}. {form.hint[0].upper()}{form.hint[1:]}.")


def _damaged(path: str | PathLike[str], form: LineFormat, number: int, error: object) -> LogError:
    if number == 1:
        return LogError(f"{path} has no header of a {form.kind} of format {form.version} ({error}): {form.hint}")
    return LogError(
        f"{path}: line {number} is damaged ({error}); keep the lines before it (head -n {number - 1}) and read those"
    )
