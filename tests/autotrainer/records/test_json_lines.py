"""Files of JSON lines with checksums: what can be read, and what is refused."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import autotrainer
from autotrainer.errors import LogError
from autotrainer.records.json_lines import LineFormat, LineWriter, encode_line, read_lines

FORM = LineFormat("notebook", "notes", 2, "write another one", unchecked=(1,), longest=10_000)


def _sealed(*lines: str) -> bytes:
    content, checksum = encode_line('{"notes":2}', 0)
    for line in lines:
        sealed, checksum = encode_line(line, checksum)
        content += sealed
    return content


def _read(path: Path, content: bytes) -> list[dict[str, Any]]:
    path.write_bytes(content)
    return [line.record for line in read_lines(path, FORM)]


def test_lines_are_read_back_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "x"
    content = _sealed('{"a":[1,2.5,"é"]}'.encode("ascii", "backslashreplace").decode().replace("\\xe9", "\\u00e9"))
    assert _read(path, content) == [{"notes": 2}, {"a": [1, 2.5, "é"]}]
    *_, last = read_lines(path, FORM)
    assert last.end == len(content)
    with path.open("a") as file:
        LineWriter(file, FORM, last).write('{"b":1}')
    assert [line.number for line in read_lines(path, FORM)] == [1, 2, 3]


def test_unchecked_version_and_other_line_ends_are_read(tmp_path: Path) -> None:
    assert _read(tmp_path / "x", b'{"notes":1}\n{"b":1}\n') == [{"notes": 1}, {"b": 1}]
    assert _read(tmp_path / "x", b'{"notes":1}\r\n{"b":1}\r\n') == [{"notes": 1}, {"b": 1}]
    assert _read(tmp_path / "x", _sealed('{"b":1}').replace(b"\n", b"\r\n")) == [{"notes": 2}, {"b": 1}]


@pytest.mark.parametrize("rest", [b'{"type":"st', b'{"b":1}', b"\x00" * 50, b'{"b":1,"crc":"00000000"}'])
def test_incomplete_last_line_is_skipped_with_a_warning(
    tmp_path: Path, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "autotrainer"):
        assert _read(tmp_path / "x", _sealed('{"b":1}') + rest) == [{"notes": 2}, {"b": 1}]
    assert "incomplete, as after a crash, and is skipped" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b'{"notes":2}', "is empty or has no complete line"),
        (b"\n", "no header of a notebook of format 2"),
        (b"no json\n", "no header"),
        (b"[1]\n", "it is not an object"),
        (b'{"type":"end"}\n', "its first line is another one"),
        (b'{"notes":3}\n', "its format is 3"),
        (b'{"notes":true}\n', "no header"),
        (b'{"notes":1.0}\n', "no header"),
        (b'{"notes":2}\n', "its checksum is wrong"),
        (_sealed().replace(b":2", b":1"), "its format is 1"),
        (b"\xef\xbb\xbf" + _sealed(), "byte 1 is not ASCII"),
        (_sealed().decode().encode("utf-16"), "no header"),
        (b"\x00" * 100 + b"\n", "no header"),
        (b"\xff\xfe\x00\n", "byte 1 is not ASCII"),
        (b"\r\n", "no header"),
        (bytes(range(256)) * 10, "no header"),
        (b" " * 20_000, "longer than 10000 bytes"),
        (b" " * 20_000 + b"\n", "longer than 10000 bytes"),
        (_sealed() + b"x" * 10_001, "line 2 is damaged .it is longer"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str, record_property: Any) -> None:
    with pytest.raises(LogError, match=message):
        _read(tmp_path / "x", content)
    record_property("attacks", 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a":1e999,"b":NaN}', "NaN is not a number"),
        ('{"a":-Infinity}', "-Infinity is not a number"),
        ('{"a":' + "1" * 41 + "}", "more than 40 digits"),
        ('{"a":' + "1" * 9000 + "}", "more than 40 digits"),
        ('{"a":1,"a":1}', "appears twice"),
        ('{"a":{"b":1,"b":1}}', "appears twice"),
        ('{"a":' + "[" * 21 + "]" * 21 + "}", "nested more than 20 deep"),
        ('{"a":' + "[" * 4000 + "]" * 4000 + "}", "nested more than 20 deep"),
        ('{"a":' + '{"b":' * 1500 + "1" + "}" * 1500 + "}", "nested more than 20 deep"),
        ("[" * 9000, "nested more than 20 deep"),
        ('{"a":"' + "[" * 9000 + "}", "Expecting|Unterminated|nested"),
        ('{"a":"\\ud8"}', "Invalid"),
        ('{"a":tru}', "Expecting value at character 6"),
        ('{"a":1}{"b":2}', "Extra data"),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_other_lines_are_refused(tmp_path: Path, version: int, line: str, message: str, record_property: Any) -> None:
    content = _sealed(line) if version == 2 else f'{{"notes":1}}\n{line}\n'.encode()
    with pytest.raises(LogError, match=rf"x: line 2 is damaged .*({message}).*keep the lines before it \(head -n 1\)"):
        _read(tmp_path / "x", content)
    record_property("attacks", 1)


def test_brackets_in_strings_are_no_nesting(tmp_path: Path) -> None:
    record = {"a": "[" * 500, 'b\\"[': ["}\\", '"{' * 30]}
    assert _read(tmp_path / "x", _sealed(json.dumps(record)))[1] == record


def test_lines_that_could_not_be_read_back_are_not_written(tmp_path: Path) -> None:
    with (tmp_path / "x").open("x") as file:
        writer = LineWriter(file, FORM)
        with pytest.raises(LogError, match="a line of the notebook can't be written: it is longer"):
            writer.write(json.dumps({"a": "x" * 10_000}))
        with pytest.raises(LogError, match="more than 2097152 values"):
            LineWriter(file, LineFormat("notebook", "notes", 2, "")).write(json.dumps({"a": [0] * 2**21}))
        writer.write('{"notes":2}')
    assert len(list(read_lines(tmp_path / "x", FORM))) == 1


@pytest.mark.parametrize("written", [0, 1, 10, 1000])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("mode", ["x", "a"])
def test_interrupted_line_is_removed_before_the_next(
    tmp_path: Path, written: int, error: type[BaseException], mode: Any, record_property: Any
) -> None:
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:written])
        raise error

    with (tmp_path / "x").open(mode) as file:
        writer = LineWriter(file, FORM)
        for text in ('{"notes":2}', '{"a":1}'):
            writer.write(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", interrupted)
            with pytest.raises(error):
                writer.write('{"b":1}')
        writer.write('{"c":1}')
    assert [line.record for line in read_lines(tmp_path / "x", FORM)] == [{"notes": 2}, {"a": 1}, {"c": 1}]
    record_property("attacks", 1)


class _Strange(os.PathLike[str]):
    def __fspath__(self) -> str:
        return b"bytes"  # type: ignore[return-value]


@pytest.mark.parametrize(
    "path",
    [None, 0, 1, True, 3.5, b"x", "", "\x00", "a\x00b", "\ud800", "x" * 5000, "missing", [], object(), _Strange()],
)
@pytest.mark.parametrize("role", ["log", "replica"])
def test_strange_paths_are_refused(path: Any, role: str, record_property: Any) -> None:
    saved = Path(__file__).parents[1] / "api" / "saved" / "run.jsonl"
    with pytest.raises(LogError, match="can't read the run log"):
        autotrainer.replay(path) if role == "log" else autotrainer.replay(saved, replicas=[path])
    record_property("attacks", 1)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, record_property: Any) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "missing")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        paths = [tmp_path, *(tmp_path / n for n in ("fifo", "loop", "dangling", "zero", "socket")), Path("/dev/null")]
        for path in paths:
            with pytest.raises(LogError, match="can't read the notebook"):
                list(read_lines(path, FORM))
    (tmp_path / "file").write_bytes(_sealed())
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert len(list(read_lines(tmp_path / "link", FORM))) == 1
    record_property("attacks", len(paths))
