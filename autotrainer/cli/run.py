"""``autotrainer run``: watch the training runs of an unmodified script."""

from __future__ import annotations

import argparse
import os
import pkgutil
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from autotrainer import registry
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.cli.common import add_rule_options, current_folder, rule_options, status_of
from autotrainer.config import log_folder
from autotrainer.errors import ConfigError, InputError, nearest
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.tracebacks import hide_frames
from autotrainer.output import print_error
from autotrainer.reporting.terminal import flush_output
from autotrainer.safe_text import escaped, safe_line

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "run"
HELP = "run a script as python does, and watch every training run in it"

_FORMATS = (".html", ".json", ".txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as with python -m"
    )
    parser.add_argument("-o", "--report", metavar="FILE", help="also write the report to a .html, .json or .txt file")
    parser.add_argument("--log-dir", metavar="DIR", help="folder for the run logs")
    parser.add_argument("--epochs", type=int, metavar="N", help="planned epochs of every run, if known")
    parser.add_argument("--steps", type=int, metavar="N", help="planned steps of every run, if known")
    add_rule_options(parser)
    parser.add_argument("script", metavar="SCRIPT", help="the script; put the options of this command before it")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's own arguments")


def run(args: argparse.Namespace) -> int:
    """Run the script, print a report of every training in it on stderr, and return the exit status.

    Raises:
        ConfigError: If there is no such script, or an option is invalid.
    """
    options = _watch_options(args)
    report = None if args.report is None else Path(args.report).absolute()  # the script may change folders
    trainings, process = Trainings(options), os.getpid()
    if not args.module and not os.path.exists(args.script):
        raise ConfigError(f"there is no script {args.script!r} in {current_folder()}; to run a module, add -m")

    def report_early() -> None:
        _print_reports(trainings.close(finished=False), report)

    with (
        _as_main(args.script, args.arguments, module=args.module),
        watched_frameworks(trainings),
        _before_termination(report_early),
    ):
        status = _run_script(args.script, module=args.module)
        watched = trainings.close(finished=status == 0)
    flush_output()
    if os.getpid() != process:  # a forked child of the script, which has ended like the script
        return status
    unsaved = _print_reports(watched, report)
    findings = [finding for _, monitor in watched for finding in monitor.findings]
    return status or unsaved or status_of(findings, args.fail_on)


def _watch_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options for `autotrainer.watch`.

    Raises:
        ConfigError: If one is invalid, before any training begins.
    """
    rules = rule_options(args)
    registry.make_rules(**rules)
    for name in ("epochs", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.report is not None and Path(args.report).suffix.lower() not in _FORMATS:
        hint = nearest(Path(args.report).suffix.lower(), _FORMATS)
        raise ConfigError(f"can't write a report as {args.report!r}: the suffix decides the format; {hint}")
    logs = log_folder(args.log_dir)
    logs = None if logs is None else logs.absolute()  # the script may change folders
    return {**rules, "epochs": args.epochs, "steps": args.steps, "log_dir": logs}


# -- the script -------------------------------------------------------------------------------------------------------


def _run_script(script: str, *, module: bool) -> int:
    """Run a script or a module as python does, and return the exit status that python would have.

    Raises:
        ConfigError: If there is nothing to run: a folder without ``__main__.py``, a file that can't be read, no module.
    """
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return _status(end.code)
    except BaseException as error:
        trace = _script_frames(error.__traceback__)
        if trace is None and isinstance(error, ImportError | OSError):
            kind = "module" if module else "script"
            raise ConfigError(f"there is no {kind} {script!r} to run in {current_folder()} ({error})") from error
        flush_output()
        hide_frames(error)
        error = error.with_traceback(trace)
        with suppress(Exception):  # the script may have replaced it
            sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


@contextmanager
def _before_termination(report: Callable[[], None]) -> Iterator[None]:
    """Have SIGTERM print the report first; the process then ends by the signal, as with python.

    Nothing is raised into the script, which might catch it. A script that handles the signal itself is left alone, and
    so are the child processes that inherit the handler.
    """
    process = os.getpid()

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() == process:
            with suppress(Exception):
                report()
            with suppress(Exception):
                flush_output()
        os.kill(os.getpid(), number)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _as_main(script: str, arguments: Sequence[str], *, module: bool) -> Iterator[None]:
    """Set ``sys.argv`` and ``sys.path[0]`` as python does."""
    argv, path, entries = sys.argv, sys.path, list(sys.path)
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[:1] = [current_folder()] if module else _script_folder(script)
    try:
        yield
    finally:
        sys.argv, sys.path, path[:] = argv, path, entries


def _script_folder(script: str) -> list[str]:
    """Return the folder of a script; nothing for a folder or an archive, which `runpy` adds itself."""
    return [] if pkgutil.get_importer(script) is not None else [str(Path(script).resolve().parent)]


def _status(code: Any) -> int:
    """Return the status of ``sys.exit(code)``; any object other than an integer is printed, as python does."""
    if code is None or isinstance(code, int):
        return int(code or 0)
    with suppress(Exception):  # an object without text
        print_error(str(code))
    return 1


def _script_frames(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback without the frames that ran the script; None if the script was not reached."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in (__name__, runpy.__name__):
        trace = trace.tb_next
    return trace


# -- the reports ------------------------------------------------------------------------------------------------------


def _print_reports(watched: Sequence[tuple[str, Monitor]], file: Path | None) -> int:
    """Print the report of every training on stderr, and write them to files: FILE, FILE-2, ….

    Returns:
        2 if a file can't be written, else 0.
    """
    status = 0
    if not watched:
        print_error("autotrainer: no training run was found in this script")
    for number, (name, monitor) in enumerate(watched, start=1):
        report = monitor.report()
        title = f"training {number} of {len(watched)}: {safe_line(name)}\n" if len(watched) > 1 else ""
        print_error(f"\n{title}{report}")
        if file is not None:
            try:
                saved = report.save(file if number == 1 else file.with_stem(f"{file.stem}-{number}"))
                print_error(f"\nreport: {escaped(str(saved))}")
            except InputError as error:
                status = 2
                print_error(f"autotrainer: {error}")
    return status
