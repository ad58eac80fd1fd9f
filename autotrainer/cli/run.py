"""``autotrainer run``: watch the trainings of an unmodified script."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from autotrainer import registry
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.cli.common import add_rule_options, rule_options, status_of
from autotrainer.errors import ConfigError, InputError, nearest
from autotrainer.monitoring.monitor import Monitor
from autotrainer.reporting.terminal import clean

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "run"
HELP = "run a script as python does, and watch each training in it"

_FORMS = (".html", ".json", ".txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as python -m")
    parser.add_argument("-o", "--report", metavar="FILE", help="write the report here too: .html, .json or .txt")
    parser.add_argument("--log-dir", metavar="DIR", help="folder for the run logs")
    parser.add_argument("--epochs", type=int, metavar="N", help="planned epochs of each training, if known")
    parser.add_argument("--steps", type=int, metavar="N", help="planned steps of each training, if known")
    add_rule_options(parser)
    parser.add_argument("script", metavar="SCRIPT", help="the script; options of this command stand before it")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's own arguments")


def run(args: argparse.Namespace) -> int:
    """Run the script, and print a report of each training in it on stderr.

    Raises:
        ConfigError: If there is no such script, or an option can't be used.
    """
    options = _watch_options(args)
    report = None if args.report is None else Path(args.report).absolute()  # the script may change the folder
    trainings = Trainings(options)
    with _as_main(args.script, args.arguments, module=args.module), watched_frameworks(trainings):
        (_check_module if args.module else _check_script)(args.script)
        status = _run_script(args.script, module=args.module)
        seen = trainings.close(finished=status == 0)
    _flush()
    unsaved = _tell(seen, report)
    findings = [finding for _, monitor in seen for finding in monitor.findings]
    return status or unsaved or status_of(findings, args.fail_on)


def _watch_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options for `autotrainer.watch`.

    Raises:
        ConfigError: If one can't be used: better now than when a training begins.
    """
    rules = rule_options(args)
    registry.make_rules(**rules)
    for name in ("epochs", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, not {getattr(args, name)}")
    if args.report is not None and Path(args.report).suffix.lower() not in _FORMS:
        hint = nearest(Path(args.report).suffix.lower(), _FORMS)
        raise ConfigError(f"can't write a report as {args.report!r}: the suffix says the form, {hint}")
    logs = None if args.log_dir is None else Path(args.log_dir).absolute()
    return {**rules, "epochs": args.epochs, "steps": args.steps, "log_dir": logs}


def _check_script(script: str) -> None:
    if not Path(script).exists():
        raise ConfigError(f"there is no script {script!r} in {os.getcwd()}; a module is run with -m")


def _check_module(module: str) -> None:
    try:
        known = find_spec(module) is not None
    except (ImportError, ValueError):  # no such package around it, or no name of a module
        known = False
    if not known:
        raise ConfigError(f"there is no module {module!r} in {os.getcwd()} or among the installed packages")


# -- the script -------------------------------------------------------------------------------------------------------


def _run_script(script: str, *, module: bool) -> int:
    """Run a script or a module as python does, and return the status with which python would have ended."""
    try:
        if module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        return _status(end.code)
    except BaseException as error:  # noqa: BLE001 - it is told as python tells it
        _flush()
        error = error.with_traceback(_own_part(error.__traceback__))
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _flush() -> None:
    """Let what the script printed stand before what is told of it."""
    with suppress(AttributeError, ValueError, OSError):  # the script may have closed it, or put anything in its place
        sys.stdout.flush()


@contextmanager
def _as_main(script: str, arguments: Sequence[str], *, module: bool) -> Iterator[None]:
    """Set ``sys.argv`` and ``sys.path[0]`` as python does."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[:1] = [os.getcwd() if module else str(Path(script).resolve().parent)]
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


def _status(code: Any) -> int:
    """Return the status of ``sys.exit(code)``; any other object is printed, as python does."""
    if code is None or isinstance(code, int):
        return int(code or 0)
    print(code, file=sys.stderr)
    return 1


def _own_part(trace: TracebackType | None) -> TracebackType | None:
    """Return the traceback from the script on, without the frames that ran it; None if it did not come to run."""
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in (__name__, runpy.__name__):
        trace = trace.tb_next
    return trace


# -- the reports ------------------------------------------------------------------------------------------------------


def _tell(seen: Sequence[tuple[str, Monitor]], file: Path | None) -> int:
    """Print the report of each training on stderr, and write them to files: FILE, FILE-2, ….

    Returns:
        2 if a file can't be written, else 0.
    """
    status = 0
    if not seen:
        print("autotrainer: no training was seen in this script", file=sys.stderr)
    for number, (name, monitor) in enumerate(seen, start=1):
        report = monitor.report()
        title = f"training {number} of {len(seen)}: {clean(name)}\n" if len(seen) > 1 else ""
        print(f"\n{title}{report}", file=sys.stderr)
        if file is not None:
            try:
                saved = report.save(file if number == 1 else file.with_stem(f"{file.stem}-{number}"))
                print(f"\nreport: {saved}", file=sys.stderr)
            except InputError as error:
                status = 2
                print(f"autotrainer: {clean(str(error))}", file=sys.stderr)
    return status
