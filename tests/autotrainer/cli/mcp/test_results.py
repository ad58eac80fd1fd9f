"""What tools return is marked as data, safe to print, bounded, and described by a schema."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import jsonschema
import pytest

from autotrainer.cli.mcp import schemas
from autotrainer.cli.mcp.results import NOTICE, Lines, untrusted
from autotrainer.cli.mcp.run_folder import RunFolder
from autotrainer.errors import ConfigError

HEADER = '{"autotrainer_log":2,"crc":"0"}\n'


def test_text_is_escaped_and_shortened_and_marked_as_data() -> None:
    result = untrusted(
        {"a\x1b[31m": "b\nc", "long": "x" * 10**6, "patch": Lines("-a\n+b"), "numbers": [1.5, None, True]}
    )
    assert result["notice"] == NOTICE
    data = result["data"]
    assert data["a\\x1b[31m"] == "b\\nc"
    assert len(data["long"]) <= 500
    assert data["patch"] == "-a\n+b"
    assert data["numbers"] == [1.5, None, True]
    assert json.loads(json.dumps(result)) == result


def test_long_lists_and_objects_are_cut_and_said_to_be() -> None:
    result = untrusted({"names": ["x"] * 500, "values": {str(n): n for n in range(401)}})
    assert len(result["data"]["names"]) == len(result["data"]["values"]) == 400
    assert result["left_out"] == {"data.names": 100, "data.values": 1}
    assert list(untrusted({"a\nb": [0] * 401})["left_out"]) == ["data.a\\nb"]


@pytest.mark.parametrize("name", ["RUNS", "REPLAY", "EXPLANATION", "COMPARISON", "PATCH", "FIT"])
def test_schemas_are_valid_and_complete_in_themselves(name: str) -> None:
    schema = schemas.output_schema(getattr(schemas, name))
    jsonschema.Draft202012Validator.check_schema(schema)
    references = {part.partition('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]}
    assert references <= set(schema["$defs"])


def test_a_result_has_to_have_notice_and_data() -> None:
    validator = jsonschema.Draft202012Validator(schemas.output_schema(schemas.RUNS))
    validator.validate(untrusted({"runs": [], "total": 0}))
    assert not validator.is_valid({"schema_version": 1, "data": {"runs": [], "total": 0}, "left_out": {}})
    assert not validator.is_valid(untrusted({"runs": [{}], "total": 0}))


def test_logs_are_named_by_their_path_and_found_by_their_safe_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    files = [tmp_path / "a" / "one.jsonl", tmp_path / "two\n.jsonl"]
    for age, file in enumerate(files):
        file.write_text(HEADER)
        os.utime(file, (time.time() - age, time.time() - age))
    (tmp_path / "a" / "else.jsonl").write_text("{}\n")
    folder = RunFolder(tmp_path.resolve())
    assert list(folder.runs()) == ["a/one.jsonl", "two\\n.jsonl"]
    assert [folder.file(name) for name in folder.runs()] == [file.resolve() for file in files]
    with pytest.raises(ConfigError, match=r"did you mean 'a/one\.jsonl'"):
        folder.file("a/on.jsonl")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    folder = RunFolder(tmp_path.resolve())
    assert folder.runs() == {}
    for name in ("pipe.jsonl", "folder.jsonl", "loop.jsonl"):
        with pytest.raises(ConfigError, match=r"there is no file|can't be the name"):
            folder.file(name)


def test_a_log_that_is_deleted_in_the_meantime_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("kept.jsonl", "lost.jsonl"):
        (tmp_path / name).write_text(HEADER)
    folder = RunFolder(tmp_path.resolve())
    files = list(folder._files(".jsonl"))
    (tmp_path / "lost.jsonl").unlink()
    monkeypatch.setattr(folder, "_files", lambda _: iter(files))
    assert list(folder.runs()) == ["kept.jsonl"]
