"""Locks between processes and threads, and what becomes of them when their holder is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autotrainer.errors import InputError, StateError
from autotrainer.workers.file_lock import FileLock, check_installed

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from pathlib import Path
from autotrainer.workers.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]), 60)
print("locked", flush=True)
time.sleep(60)
"""


@contextmanager
def _holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a file."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as it:
        assert it.stdout is not None
        assert it.stdout.readline() == "locked\n"
        try:
            yield it
        finally:
            it.kill()


def test_second_process_is_told_who_holds_the_lock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, record_property: Any
) -> None:
    path = tmp_path / "x"
    with _holder(path) as holder:
        for patience in (0, 0.1):
            with pytest.raises(
                StateError, match=rf"x is in use by process {holder.pid} on .* since 2\d\d\d-.* UTC: wait"
            ):
                FileLock(path, patience)
    assert caplog.text.count("is in use by process") == 1, "one line where it waits, none where it does not"
    assert platform.node() in caplog.text
    record_property("attacks", 2)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_lock_of_a_killed_process_is_free(tmp_path: Path, end: int, record_property: Any) -> None:
    path = tmp_path / "x"
    with _holder(path) as holder:
        killer = threading.Timer(0.2, holder.send_signal, [end])
        killer.start()
        with FileLock(path, 30):
            holder.wait(10)
        FileLock(path, 0).release()
    record_property("attacks", 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_leaves_the_lock_to_its_parent(tmp_path: Path, record_property: Any) -> None:
    path = tmp_path / "x"
    with FileLock(path, 0) as lock:
        child = os.fork()
        if not child:
            lock.release()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        with pytest.raises(StateError, match=f"in use by process {os.getpid()}"):
            FileLock(path, 0)
    record_property("attacks", 1)


def test_threads_wait_for_each_other(tmp_path: Path, record_property: Any) -> None:
    inside, together = [0], []

    def work() -> None:
        for _ in range(5):
            with FileLock(tmp_path / "x", 30):
                inside[0] += 1
                together.append(inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [1] * 15
    record_property("attacks", 15)


def test_second_lock_of_a_thread_is_refused_and_the_first_stays(tmp_path: Path, record_property: Any) -> None:
    first = FileLock(tmp_path / "x", 0)
    for _ in range(2):
        with pytest.raises(StateError, match=f"process {os.getpid()} on"):
            FileLock(tmp_path / "x", 0)
    first.release()
    first.release()
    FileLock(tmp_path / "x", 0).release()
    record_property("attacks", 3)


@pytest.mark.parametrize(
    "content", [b"", b"process 1 on elsewhere since long ago", b"12\nhost\n", b"\xff\x00" * 999, b"\n" * 5]
)
def test_stale_lock_file_is_harmless(tmp_path: Path, content: bytes, record_property: Any) -> None:
    (tmp_path / "x.lock").write_bytes(content)
    (tmp_path / "x.holder").write_bytes(content)
    FileLock(tmp_path / "x", 0).release()
    record_property("attacks", 1)


def test_lock_that_cannot_be_written_is_an_operating_system_error(tmp_path: Path, record_property: Any) -> None:
    (tmp_path / "x.lock").mkdir()
    (tmp_path / "y.lock").symlink_to(tmp_path / "y.lock")
    (tmp_path / "file").touch()
    for path in (tmp_path / "x", tmp_path / "y", tmp_path / "file" / "z"):
        with pytest.raises(OSError):
            FileLock(path, 0.1)
    record_property("attacks", 3)


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_file_system_without_locks_gets_lock_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    def unsupported(*arguments: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first = FileLock(tmp_path / "x", 0)
    with pytest.raises(StateError, match=r"in use by .*delete"):
        FileLock(tmp_path / "x", 0.1)
    first.release()
    FileLock(tmp_path / "x", 0).release()
    record_property("attacks", 2)


def test_missing_library_is_an_input_error(monkeypatch: pytest.MonkeyPatch, story: Any, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "filelock", None)
    for call in (check_installed, lambda: story.fit(budget=1.0, log_dir=tmp_path / "log")):
        with pytest.raises(InputError, match="log_dir needs filelock"):
            call()
    assert not list((tmp_path / "log").glob("fit*"))
    assert story.fit(budget=1.0)["status"]
