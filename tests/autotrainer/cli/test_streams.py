"""The command line with standard streams that are closed, full, or broken pipes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from autotrainer.cli import main

ROOT = Path(__file__).parents[3]
LOG = ROOT / "tests" / "autotrainer" / "api" / "saved" / "run.jsonl"

COMMANDS: dict[str, tuple[list[str], int]] = {
    "rules": (["rules"], 0),
    "rules --json": (["rules", "--json"], 0),
    "explain": (["explain", "nan"], 0),
    "explain --json": (["explain", "nan", "--json"], 0),
    "explain words": (["explain", "loss", "is", "nan"], 0),
    "replay": (["replay", str(LOG)], 0),
    "replay with a finding": (["replay", str(LOG), "--fail-on", "warning", "--threshold", "alpha_1=0.999"], 0),
    "help": (["--help"], 0),
    "help of a command": (["run", "--help"], 0),
    "version": (["--version"], 0),
    "unknown command": (["nonsense"], 2),
    "unknown problem": (["explain", "zzz"], 2),
    "no log": (["replay", "no_such.jsonl"], 2),
    "no module": (["check", "nothing:here"], 2),
}
REDIRECTIONS: dict[str, tuple[str, bool]] = {
    "stdout full": (">/dev/full", True),
    "stderr full": ("2>/dev/full", False),
    "both full": (">/dev/full 2>/dev/full", True),
    "stdout closed": (">&-", False),
    "stderr closed": ("2>&-", False),
    "both closed": (">&- 2>&-", False),
    "stdout a broken pipe": ("> >(true)", False),
    "stderr a broken pipe": ("2> >(true) >/dev/null", False),
    "both broken pipes": ("2>&1 > >(true)", False),
    "stdin closed": ("<&-", False),
}
"""A redirection, and whether it makes the output an error."""


def shell(arguments: list[str], redirection: str, unbuffered: bool = False) -> tuple[int, str]:
    """Return exit status and standard error of a command of autotrainer."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | ({"PYTHONUNBUFFERED": "1"} if unbuffered else {})
    code = f'"$0" -m autotrainer "$@" {redirection}'
    ran = subprocess.run(
        ["bash", "-c", code, sys.executable, *arguments], env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True, cwd=ROOT, timeout=300, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stderr


_COMMANDS = ("rules", "help", "no log")
"""Commands tried with every redirection; the others are tried with the main ones of the stream that they write to."""
_REDIRECTIONS = {0: ("stdout full", "stdout a broken pipe"), 2: ("stderr full",)}


@pytest.mark.parametrize(("command", "redirection"), [
    pytest.param(command, name, marks=() if command in _COMMANDS and name in sum(_REDIRECTIONS.values(), ())
                 else pytest.mark.slow)
    for command, (_, status) in COMMANDS.items() for name in REDIRECTIONS
    if command in _COMMANDS or name in _REDIRECTIONS[status]
])  # fmt: skip
def test_command_ends_with_its_status_and_at_most_one_line(
    command: str, redirection: str, record_property: Any
) -> None:
    record_property("attacks", 1)
    arguments, status = COMMANDS[command]
    text, fails = REDIRECTIONS[redirection]
    returned, error = shell(arguments, text)
    assert returned == (2 if fails and status == 0 else status)
    assert error.count("\n") <= 1
    if status or fails:
        assert not error or error.startswith("autotrainer: ")
    if status == 0 and redirection == "stdout full":
        assert error == "autotrainer: can't write the output: No space left on device\n"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rules", "rules --json", "explain", "replay"])  # argparse hides errors of its own
def test_unbuffered_output_fails_alike(command: str, record_property: Any) -> None:
    record_property("attacks", 2)
    error = "autotrainer: can't write the output: No space left on device\n"
    assert shell(COMMANDS[command][0], ">/dev/full", unbuffered=True) == (2, error)
    assert shell(COMMANDS[command][0], "> >(true)", unbuffered=True) == (0, "")


# -- the output in this process ---------------------------------------------------------------------------------------


class Raising(io.StringIO):
    def __init__(self, error: BaseException, *methods: str) -> None:
        super().__init__()
        self._error = error
        for method in methods:
            setattr(self, method, self._raise)

    def _raise(self, *args: Any) -> NoReturn:
        raise self._error


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS: dict[str, tuple[Callable[[], Any], int]] = {
    "closed": (closed, 2),
    "none": (lambda: None, 0),
    "full": (lambda: Raising(OSError(28, "No space left on device"), "write"), 2),
    "full when it is flushed": (lambda: Raising(OSError(28, "No space left on device"), "flush"), 2),
    "broken pipe": (lambda: Raising(BrokenPipeError(), "write"), 0),
    "broken pipe when it is flushed": (lambda: Raising(BrokenPipeError(), "flush"), 0),
    "ascii": (lambda: io.TextIOWrapper(io.BytesIO(), encoding="ascii"), 0),
    "cp1252": (lambda: io.TextIOWrapper(io.BytesIO(), encoding="cp1252"), 0),
}


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], None]]:
    yield lambda stream: monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.undo()


@pytest.mark.parametrize("command", ["rules", "rules --json", "explain", "explain words", "replay", "no log"])
@pytest.mark.parametrize("name", STREAMS)
def test_command_survives_every_standard_output(
    name: str, command: str, stdout: Any, capfd: pytest.CaptureFixture[str], record_property: Any
) -> None:
    record_property("attacks", 1)
    make, status = STREAMS[name]
    arguments, expected = COMMANDS[command]
    stdout(make())
    assert main(arguments) == (expected or status)
    if name == "none":
        sys.stdout.close()  # the one that stands for it
    assert capfd.readouterr().err.count("\n") == bool(expected or status)


@pytest.mark.parametrize("error", [OSError(28, "full"), BrokenPipeError(), ValueError("closed")])
def test_bad_input_has_its_status_without_standard_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    record_property("attacks", 2)
    for stream in (Raising(error, "write", "flush"), None):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["nonsense"]) == 2


# -- run --------------------------------------------------------------------------------------------------------------

SCRIPTS: dict[str, tuple[str, int]] = {
    "prints": ("print('x' * 9)", 0),
    "prints and ends with a status": ("import sys\nprint('x' * 9)\nsys.exit(7)", 7),
    "ends with a message": ("import sys\nsys.exit('└ bye')", 1),
    "ends with an object without text": (
        "import sys\nclass Mute:\n    def __str__(self): raise OSError\nsys.exit(Mute())", 1,
    ),
    "raises": ("raise ValueError('mine')", 1),
    "replaces the streams": ("import sys\nsys.stdout = sys.stderr = None", 0),
    "replaces the streams by others": ("import sys\nsys.stdout = sys.stderr = object()\nsys.exit(3)", 120),  # as python
    "closes the streams": ("import sys\nsys.stdout.close(); sys.stderr.close()\nsys.exit(4)", 4),
    "breaks the exception hook": ("import sys\nsys.excepthook = None\n1 / 0", 1),
    "raises in the exception hook": ("import sys\ndef hook(*a): raise OSError\nsys.excepthook = hook\n1 / 0", 1),
    "empties the import hooks": ("import sys\nsys.meta_path.clear()\nsys.exit(6)", 6),
    "forks and ends": ("import os, sys\nif os.fork() == 0: sys.exit(0)\nos.wait(); sys.exit(5)", 5),
    "forks and goes on": ("import os\nif os.fork(): os.wait()", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_status_of_a_script_counts_whatever_it_does_to_its_streams(
    name: str, tmp_path: Path, record_property: Any
) -> None:
    record_property("attacks", 1)
    code, status = SCRIPTS[name]
    script = tmp_path / "script.py"
    script.write_text(code)
    returned, error = shell(["run", str(script)], "")
    assert returned == status
    assert "autotrainer/cli" not in error
    if name.startswith("forks"):
        assert error == "autotrainer: no training run was found in this script\n"


_SCRIPTS: dict[str, Iterable[str]] = {
    "prints": REDIRECTIONS,
    "prints and ends with a status": ("stdout full", "both full", "stdout closed", "stdout a broken pipe"),
    "ends with a message": ("stderr full", "both full", "stderr closed", "stderr a broken pipe"),
    "raises": REDIRECTIONS,
}
"""The redirections by script: all, or those of the stream that a script of the same kind writes to."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "redirection"), [(name, each) for name in _SCRIPTS for each in _SCRIPTS[name]])
def test_status_of_a_script_counts_whatever_its_streams_are(
    name: str, redirection: str, tmp_path: Path, record_property: Any
) -> None:
    record_property("attacks", 1)
    code, status = SCRIPTS[name]
    script = tmp_path / "script.py"
    script.write_text(code)
    text, fails = REDIRECTIONS[redirection]
    returned, error = shell(["run", str(script)], text)
    lost_traceback = status == 1 and "stderr" in redirection and "closed" not in redirection and name == "raises"
    lost_traceback |= name == "raises" and redirection == "both full"
    if lost_traceback:  # Python itself says 120 where it can't write the traceback
        assert returned in (1, 120)
    else:
        assert returned == (2 if fails and status == 0 else status)
    assert "autotrainer/cli" not in error
