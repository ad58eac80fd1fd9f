"""Processes that share a folder: they wait for each other, and no kill harms the journal."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import InputError, StateError
from autotrainer.workers import journal as journals
from autotrainer.workers.journal import Journal
from autotrainer.workers.journal_reader import read_journal

ROOT = Path(__file__).parents[3]
STORY = """
import importlib.util, json, logging, sys, time
from pathlib import Path
from autotrainer import registry
from autotrainer.testing import FakeBackend
from autotrainer.workers import journal

spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
module = sys.modules["conftest"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
backend = FakeBackend()
registry.rules, registry.repairs = lambda: (module._Bad,), lambda: (module._Rate, module._Momentum)
registry.backends = lambda: (backend,)
logging.basicConfig(level=logging.INFO, format="%(message)s")
options = json.loads(sys.argv[3])
journal._PATIENCE = options.pop("patience")
pause, gate = options.pop("pause"), options.pop("gate")
Path(sys.argv[2]).touch()

def before(edits, number):
    time.sleep(pause)
    while gate and number >= 4 and not Path(gate).exists():
        time.sleep(0.005)

print("ready", flush=True)
result = module.Story(Path(sys.argv[2])).fit(before, **options)
print(repr(result))
"""
REQUEST = {"epochs": "3"}


class Fits:
    """Starts fits in other processes, which share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[subprocess.Popen[str]]()

    def start(self, *, gated: bool = False, **options: Any) -> subprocess.Popen[str]:
        """Start a fit; a gated one stops before its fifth training until `open_gate` is called."""
        defaults = {"budget": 8.0, "log_dir": str(self.folder / "log"), "pause": 0.0, "patience": 60.0}
        options = {**defaults, "gate": str(self.folder / "gate") if gated else "", **options}
        notes = self.folder / f"notes-{len(self.started)}"
        command = [sys.executable, "-c", STORY, str(ROOT / "tests/autotrainer/conftest.py"), str(notes)]
        process = subprocess.Popen(
            [*command, json.dumps(options)], env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def result(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Wait for a fit, and return its result as text, and its log."""
        out, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        return out.removeprefix("ready\n"), log

    def open_gate(self) -> None:
        (self.folder / "gate").touch()

    def wait_until_waiting(self, process: subprocess.Popen[str]) -> str:
        """Wait until a fit says that it waits for another one, and return what it says."""
        assert process.stderr is not None
        while "is in use by" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        return line

    @property
    def journals(self) -> list[Path]:
        """The journals so far that have a header."""
        return [path for path in (self.folder / "log").glob("fit-*.jsonl") if b"\n" in path.read_bytes()]

    def wait_for_lines(self, number: int) -> Path:
        """Wait until the only journal has so many lines."""
        while not self.journals or self.journals[0].read_bytes().count(b"\n") < number:
            time.sleep(0.005)
        return self.journals[0]


@pytest.fixture
def fits(tmp_path: Path) -> Iterator[Fits]:
    fits = Fits(tmp_path)
    yield fits
    for process in fits.started:
        process.kill()
        process.communicate()


def _trainings(fits: Fits) -> int:
    return sum(len(path.read_text().splitlines()) for path in fits.folder.glob("notes-*"))


@pytest.mark.slow
def test_second_resumer_waits_and_returns_the_same_result(fits: Fits, record_property: Any) -> None:
    whole, _ = fits.result(fits.start(log_dir=None))
    alone = _trainings(fits)
    first = fits.start(gated=True, resume=True)
    fits.wait_for_lines(3)
    others = [fits.start(resume=True), fits.start(resume=True)]
    assert all(f"is in use by process {first.pid} on" in fits.wait_until_waiting(process) for process in others)
    fits.open_gate()
    assert fits.result(first)[0] == whole
    for result, log in map(fits.result, others):
        assert result == whole
        assert "in use" not in log, "one line is enough"
    (path,) = fits.journals
    assert len(read_journal(path)[0]) > 5
    assert _trainings(fits) <= 2 * alone + 2 * 2, "the others train only for a reference and the best model"
    record_property("attacks", 2)


@pytest.mark.slow
def test_resumers_that_start_at_once_share_one_journal(fits: Fits, record_property: Any) -> None:
    processes = [fits.start(resume=True, pause=0.01) for _ in range(3)]
    results = {fits.result(process)[0] for process in processes}
    assert len(results) == 1
    (path,) = fits.journals
    read_journal(path)
    record_property("attacks", 3)


@pytest.mark.slow
def test_impatient_resumer_is_told_who_holds_the_journal(fits: Fits, record_property: Any) -> None:
    first = fits.start(gated=True)
    path = fits.wait_for_lines(2)
    before = path.read_bytes()
    second = fits.start(resume=True, patience=0.2)
    _, log = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"StateError: {path} is in use by process {first.pid} on " in log
    assert "wait until that ends or stop it" in log
    assert path.read_bytes().startswith(before)
    fits.open_gate()
    assert fits.result(first)[0]
    record_property("attacks", 1)


@pytest.mark.slow
def test_resumer_continues_where_the_killed_holder_stopped(fits: Fits, record_property: Any) -> None:
    whole, _ = fits.result(fits.start(log_dir=None))
    first = fits.start(gated=True)
    fits.wait_for_lines(4)
    second = fits.start(resume=True)
    fits.wait_until_waiting(second)
    first.kill()
    assert fits.result(second)[0] == whole
    (path,) = fits.journals
    read_journal(path)
    record_property("attacks", 1)


@pytest.mark.parametrize("kills", [pytest.param(n, marks=pytest.mark.slow) for n in (3, 8)])
def test_repeated_kills_and_resumes_give_the_same_result(kills: int, fits: Fits, record_property: Any) -> None:
    rng = random.Random(kills)
    whole, _ = fits.result(fits.start(log_dir=None))
    lines = 0
    for _ in range(kills):
        process = fits.start(pause=0.02, resume=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.communicate()
        for path in fits.journals:
            records, _ = read_journal(path)
            assert len(records) >= lines, "no record is lost"
            lines = len(records)
    assert fits.result(fits.start(resume=True))[0] == whole
    (path,) = fits.journals
    read_journal(path)
    record_property("attacks", kills)


@pytest.mark.slow
def test_fits_without_resume_write_at_once_to_separate_files(fits: Fits, record_property: Any) -> None:
    processes = [fits.start(budget=3.0, pause=0.02) for _ in range(3)]
    results = [fits.result(process) for process in processes]
    assert len({result for result, _ in results}) == 1
    assert not [log for _, log in results if "in use" in log]
    assert len(fits.journals) == 3
    contents = [path.read_text().splitlines() for path in fits.journals]
    assert len({len(lines) for lines in contents}) == 1
    record_property("attacks", 3)


@pytest.mark.slow
def test_fits_of_different_requests_resume_at_once_in_one_folder(fits: Fits, record_property: Any) -> None:
    processes = [fits.start(seed=seed, gated=True) for seed in (0, 1)]
    while len(fits.journals) < 2 or min(path.read_bytes().count(b"\n") for path in fits.journals) < 3:
        time.sleep(0.005)
    for process in processes:
        process.kill()
    processes = [fits.start(seed=seed, gated=True, resume=True) for seed in (0, 1)]
    for process in processes:
        assert process.stderr is not None
        assert "resuming after" in process.stderr.readline()
    fits.open_gate()
    assert not [log for _, log in map(fits.result, processes) if "in use" in log]
    record_property("attacks", 2)


# -- within one process -----------------------------------------------------------------------------------------------


def _begun(folder: Path) -> Path:
    Journal(folder, REQUEST, resume=False).close()
    (path,) = folder.glob("fit-*.jsonl")
    return path


def test_threads_never_hold_one_journal_together(tmp_path: Path, record_property: Any) -> None:
    path, inside, most = _begun(tmp_path), [], []

    def work() -> None:
        for number in range(4):
            journal = Journal(tmp_path, REQUEST, resume=True)
            inside.append(number)
            most.append(len(inside))
            journal.add_test_score(0.5)
            time.sleep(0.001)
            inside.pop()
            journal.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 12
    assert list(read_journal(path)[0]) == ["test"]
    record_property("attacks", 12)


def test_journal_of_this_process_is_refused_while_it_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    monkeypatch.setattr(journals, "_PATIENCE", 0.05)
    first = Journal(tmp_path, REQUEST, resume=False)
    with pytest.raises(StateError, match=f"is in use by process {os.getpid()} on"):
        Journal(tmp_path, REQUEST, resume=True)
    first.close()
    Journal(tmp_path, REQUEST, resume=True).close()
    record_property("attacks", 1)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_waiting_releases_everything(
    tmp_path: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    path = _begun(tmp_path)
    content = path.read_bytes() + b'{"cut'
    path.write_bytes(content)

    def interrupted(path: Path) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(journals, "read_journal", interrupted)
        with pytest.raises(error):
            Journal(tmp_path, REQUEST, resume=True)
    assert path.read_bytes() == content
    assert not list(tmp_path.glob("*.holder"))
    journal = Journal(tmp_path, REQUEST, resume=True)
    assert path.read_bytes() == content
    journal.add_test_score(0.5)
    journal.close()
    assert path.read_bytes().startswith(content[:-5] + b'{"key":"test"')
    record_property("attacks", 1)


@pytest.mark.parametrize("obstacle", ["lock", "journal"])
def test_journal_that_cannot_be_written_is_an_input_error(
    tmp_path: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    path = _begun(tmp_path)
    if obstacle == "lock":
        path.with_name(f"{path.name}.lock").unlink()
        path.with_name(f"{path.name}.lock").mkdir()
    else:  # as on a read-only file system, on which the superuser can't write, either
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda self, mode="r", **o: real(Path("/proc/version"), mode, **o))
    with pytest.raises(InputError, match=rf"resume=True: can't write {path}: .*Make it writable, or leave resume out"):
        Journal(tmp_path, REQUEST, resume=True)
    record_property("attacks", 1)


def test_unwritable_folder_without_a_journal_ends_the_recording_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "fit.lock").mkdir()
    for folder in (tmp_path / "file", tmp_path, Path("/proc/nothing")):
        journal = Journal(folder, REQUEST, resume=True)
        journal.add_test_score(1.0)
        journal.close()
    assert caplog.text.count("the journal for resume=True can't be written and ends here") == 3
    record_property("attacks", 3)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_releases_the_lock(tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any) -> None:
    journal = Journal(tmp_path, REQUEST, resume=False)
    (path,) = tmp_path.glob("fit-*.jsonl")
    assert journal._writer is not None
    journal._writer.file.close()
    journal._writer.file = open("/dev/full", "a")  # noqa: SIM115 - the journal closes it
    journal.add_test_score(1.0)
    assert caplog.text.count("No space left on device") == 1
    assert journal.test_score() == 1.0
    Journal(tmp_path, REQUEST, resume=True).close()
    assert read_journal(path)[0] == {}
    record_property("attacks", 1)


@pytest.mark.parametrize("planted", ["folder", "fifo", "dangling", "loop", "zero", "empty", "binary", "old"])
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_strange_files_in_the_folder(tmp_path: Path, planted: str, record_property: Any) -> None:
    path = tmp_path / "fit-strange.jsonl"
    make: dict[str, Callable[[], object]] = {
        "folder": path.mkdir, "fifo": lambda: os.mkfifo(path),
        "dangling": lambda: path.symlink_to(tmp_path / "missing"),
        "loop": lambda: path.symlink_to(path), "zero": lambda: path.symlink_to("/dev/zero"), "empty": path.touch,
        "binary": lambda: path.write_bytes(bytes(range(256)) * 9),
        "old": lambda: path.write_text('{"autotrainer_fit":2,"request":{"epochs":"3"}}\n'),
    }  # fmt: skip
    make[planted]()
    if planted == "empty":
        Journal(tmp_path, REQUEST, resume=True).close()
    else:
        with pytest.raises(journals.LogError, match=r"fit-strange.*[lL]eave resume=True out, or give another log_dir"):
            Journal(tmp_path, REQUEST, resume=True)
    if planted != "folder":
        Journal(tmp_path, REQUEST, resume=False).close()
        Journal(tmp_path, REQUEST, resume=True).close()  # a later journal of the same request comes first
    shutil.rmtree(tmp_path / "log", ignore_errors=True)
    record_property("attacks", 1)
