"""Which logs are followed: given ones, those in folders, and those that appear later."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from autotrainer import registry
from autotrainer.errors import InputError, LogError
from autotrainer.view import run_folder
from autotrainer.view.run_folder import RunFolder
from tests.autotrainer.view.recording import Recording


@pytest.fixture(autouse=True)
def _scan_each_time(monkeypatch: Any) -> None:
    monkeypatch.setattr(run_folder, "_SCAN_EVERY", 0.0)


def _names(folder: RunFolder) -> list[str]:
    while not folder.update(10.0):
        pass
    return sorted(run.name for run in folder.runs.values())


def _folder(*paths: Path) -> RunFolder:
    return RunFolder(paths, registry.make_rules)


def test_new_logs_are_picked_up_and_keep_their_numbers(tmp_path: Path) -> None:
    folder = _folder(tmp_path)
    assert _names(folder) == []
    first = Recording(tmp_path / "a")
    assert _names(folder) == [f"a/{first.path.stem}"]
    (number,) = folder.runs
    second = Recording(tmp_path)
    assert _names(folder) == [f"a/{first.path.stem}", second.path.stem]
    assert folder.runs[number].path == first.path
    first.path.unlink()
    assert _names(folder) == [second.path.stem]
    assert number not in folder.runs


def test_logs_of_the_folder_and_its_subfolders_count(tmp_path: Path) -> None:
    recorded = Recording(tmp_path).path
    for place in ("run-1.jsonl", "a/run-2.jsonl", "a/b/run-3.jsonl", "other.jsonl", "fit-1.jsonl", "run-4.json"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recorded, tmp_path / place)
    recorded.unlink()
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert _names(_folder(tmp_path)) == ["a/run-2", "run-1"]


def test_latest_logs_are_followed_if_there_are_many(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(run_folder, "MAX_RUNS", 3)
    recorded = Recording(tmp_path / "x").path
    for age in range(6):
        path = tmp_path / f"run-{age}.jsonl"
        shutil.copy(recorded, path)
        os.utime(path, (1000.0 - age, 1000.0 - age))
    recorded.unlink()
    folder = _folder(tmp_path)
    assert _names(folder) == ["run-0", "run-1", "run-2"]
    assert folder.left_out == 3
    assert [run.name for run in folder.latest_first()] == ["run-0", "run-1", "run-2"]


def test_several_paths_are_followed_under_their_whole_names(tmp_path: Path) -> None:
    one, two = (Recording(tmp_path / name).path for name in "ab")
    paths = (one, tmp_path / "b", two)
    assert _names(_folder(*paths)) == sorted(str(path).removesuffix(".jsonl") for path in (one, two))


def test_damaged_log_in_a_folder_hides_no_other(tmp_path: Path) -> None:
    good = Recording(tmp_path)
    (tmp_path / "run-broken.jsonl").write_text("nothing\n")
    (tmp_path / "run-device.jsonl").symlink_to("/dev/zero")
    folder = _folder(tmp_path)
    assert len(_names(folder)) == 3
    states = {run.name: run.state for run in folder.runs.values()}
    assert states == {good.path.stem: "running", "run-broken": "unreadable", "run-device": "unreadable"}


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, InputError, "there is no .*x.jsonl: pass run logs"),
        ("nothing\n", LogError, "no header of a run log"),
        ('{"autotrainer_journal": 1}\n', LogError, "no header of a run log"),
    ],
)
def test_file_that_is_no_log_is_an_error(tmp_path: Path, content: str | None, error: Any, message: str) -> None:
    path = tmp_path / "x.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=message):
        _folder(path)


def test_file_that_is_being_begun_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.touch()
    folder = _folder(path)
    assert _names(folder) == ["x"]
    shutil.copyfile(Recording(tmp_path / "y").path, path)
    _names(folder)
    assert next(iter(folder.runs.values())).state == "running"
