"""`autotrainer view`: one clear line for bad input, a page until Ctrl-C, and the same in a terminal."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from autotrainer import registry
from autotrainer.cli import main
from autotrainer.view.run_folder import RunFolder
from autotrainer.view.terminal import frame
from tests.autotrainer.view.recording import Recording

ROOT = Path(__file__).parents[3]
LOG = ROOT / "tests" / "autotrainer" / "api" / "saved" / "run.jsonl"
BARE = [sys.executable, "-c", "import sys; from autotrainer.cli import main; sys.exit(main(sys.argv[1:]))"]
HOSTILE = "\x1b[31m[bold]x\u202e"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such"], "there is no no_such: pass run logs, or a folder"),
        ([str(ROOT / "setup.cfg")], "no header of a run log"),
        ([str(LOG), "--port", "x"], "a number from 0 to 65535 expected, not 'x'"),
        ([str(LOG), "--port", "70000"], "a number from 0 to 65535 expected"),
        ([str(LOG), "--terminal"], "--terminal needs a terminal"),
        ([str(LOG), "--ignore", "nonsense"], "nonsense"),
        ([], "LOG_DIR_OR_FILE"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", *arguments]) == 2
    output, error = capsys.readouterr()
    assert not output
    assert message in error
    assert error.count("\n") == 1


def test_port_in_use_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["view", str(LOG), "--no-browser", "--port", str(port)]) == 2
    assert f"port {port} is in use: pass another one" in capsys.readouterr().err


@pytest.mark.slow
def test_page_is_served_until_ctrl_c() -> None:
    process = subprocess.Popen(
        [*BARE, "view", str(LOG), "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    url = re.search(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())
    assert url is not None
    with urlopen(url[0], timeout=60) as answer:
        assert b"autotrainer view" in answer.read()
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=60)
    assert (process.returncode, output, error) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_terminal_shows_the_runs_until_ctrl_c() -> None:
    main_end, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    process = subprocess.Popen(
        [*BARE, "view", str(LOG), "--terminal"], stdout=terminal, stderr=terminal, cwd=ROOT, env=environment
    )
    os.close(terminal)
    shown, until = "", time.monotonic() + 120
    while "loss " not in shown and time.monotonic() < until:
        if select.select([main_end], [], [], 1.0)[0]:
            shown += os.read(main_end, 65536).decode(errors="replace")
    process.send_signal(signal.SIGINT)
    while select.select([main_end], [], [], 60.0)[0]:
        try:
            if not os.read(main_end, 65536):
                break
        except OSError:  # as on Linux, when the other end is closed
            break
    assert process.wait(timeout=60) == 0
    os.close(main_end)
    assert "run" in shown
    assert "findings" in shown
    assert "Traceback" not in shown


def _text(content: Any, width: int = 100) -> str:
    from rich.console import Console

    console = Console(width=width, height=40, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(content)
    return capture.get()


def test_frame_without_runs_says_what_it_waits_for(tmp_path: Path) -> None:
    folder = RunFolder([tmp_path], registry.make_rules)
    folder.update(1.0)
    assert "no run log in" in _text(frame(folder, 100, 40))


def test_frame_shows_runs_and_findings_of_the_latest() -> None:
    folder = RunFolder([LOG], registry.make_rules)
    while not folder.update(10.0):
        pass
    text = _text(frame(folder, 140, 40), 140)
    assert "state" in text
    assert re.search(r"loss [▁▂▃▄▅▆▇█×]+ \S+ → ", text)
    assert "autotrainer:" in text


def test_frame_escapes_hostile_names(tmp_path: Path) -> None:
    folder_name = tmp_path / HOSTILE
    run = Recording(folder_name, layer=HOSTILE, loss=HOSTILE)
    for _ in range(3):
        run.step()
    run.epoch(**{HOSTILE: 1.0})
    run.writer.close()
    folder = RunFolder([tmp_path], registry.make_rules)
    while not folder.update(10.0):
        pass
    text = _text(frame(folder, 200, 40), 200)
    assert "[bold]x" in text
    assert not {"\x1b", "\u202e"} & set(text)
