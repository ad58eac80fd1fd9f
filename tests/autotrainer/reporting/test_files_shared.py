"""Several threads and processes write one path, or are killed while they do: every read shows a whole file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from autotrainer.reporting.files import replace_files, write_atomic, write_file
from autotrainer.reporting.report import Report

ROOT = Path(__file__).parents[3]
SIZE = 100_000


def content(number: int) -> str:
    """Return content that differs in each save, and of which each part shows the whole."""
    return f"{number:09d}\n" * (SIZE // 10 + number)


def is_whole(text: str) -> bool:
    return text == content(int(text[:9]))


class Reader(threading.Thread):
    """Reads a file again and again, and keeps what is not whole."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.reads, self.damaged, self.stop = path, 0, [], threading.Event()
        self.damaged: list[str] = []

    def run(self) -> None:
        while not self.stop.is_set():
            text = self.path.read_text()
            self.reads += 1
            if not is_whole(text):
                self.damaged.append(text[:20])

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.join()

    def __enter__(self) -> Reader:
        self.start()
        return self


def test_threads_save_to_one_path(tmp_path: Path, record_property: Any) -> None:
    path = write_atomic(tmp_path / "file", content(0))
    with Reader(path) as reader, ThreadPoolExecutor(8) as pool:
        numbers = range(8 * 25)
        assert list(pool.map(lambda number: write_atomic(path, content(number)), numbers)) == [path] * len(numbers)
    assert reader.reads
    assert not reader.damaged
    assert is_whole(path.read_text())
    assert os.listdir(tmp_path) == ["file"]
    record_property("attacks", len(numbers))


def test_threads_save_reports_and_folders_to_one_place(tmp_path: Path, record_property: Any) -> None:
    def save(number: int) -> None:
        if number % 2:
            Report().save(tmp_path / "report.txt")
            return
        with replace_files(tmp_path, obsolete=["plan.json"]) as stage:
            write_file(stage / "report.txt", str(Report()) + "\n")
            if number % 4:
                write_file(stage / "plan.json", "{}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(40)))
    assert (tmp_path / "report.txt").read_text() == f"{Report()}\n"
    assert set(os.listdir(tmp_path)) <= {"report.txt", "plan.json"}
    record_property("attacks", 40)


WRITER = """
import sys
from autotrainer.reporting.files import replace_files, write_atomic, write_file

def content(number):
    return f"{number:09d}\\n" * (100_000 // 10 + number)

print("ready", flush=True)
sys.stdin.readline()
folder, saves = sys.argv[1], int(sys.argv[2])
for number in range(saves):
    write_atomic(folder + "/file", content(number))
    with replace_files(folder, obsolete=["plan.json"]) as stage:
        write_file(stage / "a", content(number))
        write_file(stage / "b", content(number))
"""


@pytest.fixture
def start_writer(tmp_path: Path) -> Any:
    """Starts a process that writes files again and again; returns it once it is ready."""
    processes = []

    def start(saves: int) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(saves)],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize(("processes", "saves"), [(2, 4), pytest.param(4, 25, marks=pytest.mark.slow)])
def test_processes_save_to_one_path(
    processes: int, saves: int, tmp_path: Path, start_writer: Callable[[int], Any], record_property: Any
) -> None:
    for name in ("file", "a", "b"):
        write_atomic(tmp_path / name, content(0))
    writers = [start_writer(saves) for _ in range(processes)]
    with Reader(tmp_path / "file") as reader:
        for writer in writers:
            go(writer)
        assert [writer.wait() for writer in writers] == [0] * processes
    assert not reader.damaged
    assert all(is_whole((tmp_path / name).read_text()) for name in ("file", "a", "b"))
    assert set(os.listdir(tmp_path)) == {"file", "a", "b"}
    record_property("attacks", 2 * processes * saves)


def end_somewhere(tmp_path: Path, start_writer: Callable[[int], Any], number: int, kind: signal.Signals) -> int:
    """End a writer at a random time and return its status; its files are whole."""
    names = ("file", "a", "b")
    for name in names:
        write_atomic(tmp_path / name, content(0))
    writer = start_writer(100_000)
    go(writer)
    time.sleep(random.Random(number).uniform(0.0, 0.05))
    writer.send_signal(kind)
    status = writer.wait()
    assert all(is_whole((tmp_path / name).read_text()) for name in names)
    return int(status)


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_process_leaves_whole_files(
    kills: int, tmp_path: Path, start_writer: Callable[[int], Any], record_property: Any
) -> None:
    for number in range(kills):
        assert end_somewhere(tmp_path, start_writer, number, signal.SIGKILL) == -signal.SIGKILL
    names = {"file", "a", "b"}
    assert all(name in names or name.startswith(".autotrainer-") for name in os.listdir(tmp_path))
    record_property("attacks", kills)


@pytest.mark.parametrize("interrupts", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_interrupted_process_leaves_whole_files_and_nothing_else(
    interrupts: int, tmp_path: Path, start_writer: Callable[[int], Any], record_property: Any
) -> None:
    for number in range(interrupts):
        assert end_somewhere(tmp_path, start_writer, number, signal.SIGINT) != 0
        assert set(os.listdir(tmp_path)) == {"file", "a", "b"}
    record_property("attacks", interrupts)
