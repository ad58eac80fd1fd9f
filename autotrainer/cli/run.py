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
from contextlib import contextmanager, nullcontext, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from autotrainer import registry
from autotrainer.api.script import Trainings, watched_frameworks
from autotrainer.cli.common import add_format, add_rule_options, current_folder, formatted, rule_options, status_of
from autotrainer.config import log_folder
from autotrainer.diagnostics.diagnostics import cause_unknown
from autotrainer.errors import ConfigError, InputError, nearest
from autotrainer.monitoring.monitor import Monitor
from autotrainer.monitoring.tracebacks import hide_frames
from autotrainer.output import print_error
from autotrainer.reporting.files import write_atomic
from autotrainer.reporting.formats.training import Training
from autotrainer.reporting.terminal import flush_output, kept_stdout, print_output
from autotrainer.safe_text import escaped, safe_line

__all__ = ["HELP", "NAME", "add_arguments", "run"]

NAME = "run"
HELP = "run a script as python does, and watch every training run in it"

_SUFFIXES = (".html", ".json", ".sarif", ".txt")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as with python -m"
    )
    parser.add_argument("-o", "--report", metavar="FILE", help="also write the report: .html, .json, .sarif or .txt")
    parser.add_argument("--log-dir", metavar="DIR", help="folder for the run logs")
    parser.add_argument("--epochs", type=int, metavar="N", help="planned epochs of every run, if known")
    parser.add_argument("--steps", type=int, metavar="N", help="planned steps of every run, if known")
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also run forward passes on a copy of each model, once: masks, positions, rows that mix, the mode",
    )
    add_rule_options(parser)
    add_format(parser)
    parser.add_argument("script", metavar="SCRIPT", help="the script; put the options of this command before it")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's own arguments")


def run(args: argparse.Namespace) -> int:
    """Run the script, print a report of every training in it, and return the exit status.

    Text goes to stderr, as stdout belongs to the script. JSON and SARIF are the only content of stdout: what the script
    prints there goes to stderr. Annotations go to stdout, after what the script prints.

    Raises:
        ConfigError: If there is no such script, or an option is invalid.
    """
    options = _watch_options(args)
    trainings, process = Trainings(options), os.getpid()
    if not args.module and not os.path.exists(args.script):
        raise ConfigError(f"there is no script {args.script!r} in {current_folder()}; to run a module, add -m")
    to_stderr = args.format in ("json", "sarif")
    with (
        nullcontext(print_output) if args.format == "text" else kept_stdout(to_stderr=to_stderr) as write,
        _as_main(args.script, args.arguments, module=args.module),
    ):
        reports = _Reports(args, write)
        with (
            watched_frameworks(trainings),
            _before_termination(lambda: reports.print(trainings.close(finished=False))),
        ):
            status = _run_script(args.script, module=args.module)
            watched = trainings.close(finished=status == 0)
        flush_output()
        if os.getpid() != process:  # a forked child of the script, which has ended like the script
            return status
        unsaved = reports.print(watched)
    findings = [finding for _, monitor in watched for finding in monitor.findings]
    if not args.probe and args.format == "text" and cause_unknown(findings, above_trivial=True):
        print_error(
            "\nThe cause is unknown: --probe also looks for wrong masks, axes and targets, on a copy of the model."
        )
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
    if args.report is not None and Path(args.report).suffix.lower() not in _SUFFIXES:
        hint = nearest(Path(args.report).suffix.lower(), _SUFFIXES)
        raise ConfigError(f"can't write a report as {args.report!r}: the suffix decides the format; {hint}")
    logs = log_folder(args.log_dir)
    logs = None if logs is None else logs.absolute()  # the script may change folders
    return {**rules, "epochs": args.epochs, "steps": args.steps, "log_dir": logs, "probe": args.probe}


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
def _before_termination(report: Callable[[], object]) -> Iterator[None]:
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


class _Reports:
    """Prints the reports of the trainings, and writes them to files: FILE, FILE-2, …; SARIF holds all in one.

    Args:
        args: The command's arguments.
        write: Prints a report on stdout.
    """

    def __init__(self, args: argparse.Namespace, write: Callable[[str], object]) -> None:
        self._format, self._write = args.format, write
        self._file = None if args.report is None else Path(args.report).absolute()  # the script may change folders
        self._script = args.script if args.module else os.path.abspath(args.script)
        self._is_module = args.module

    def print(self, watched: Sequence[tuple[str, Monitor]]) -> int:
        """Print and write the reports, and return 2 if a file can't be written, else 0."""
        if not watched:
            print_error("autotrainer: no training run was found in this script")
        elif all(monitor.follows for _, monitor in watched):  # another process of the same training reports
            return 0
        watched = [(name, monitor) for name, monitor in watched if not monitor.follows]
        reports = [monitor.report() for _, monitor in watched]
        file = _module_file(self._script) if self._is_module else self._script
        trainings = [
            Training(name, report.findings, report.to_dict(), file)
            for (name, _), report in zip(watched, reports, strict=True)
        ]
        if self._format != "text":
            self._write(formatted(self._format, trainings, NAME))
        in_one = self._file is not None and self._file.suffix.lower() == ".sarif"
        status = 0
        for number, (training, report) in enumerate(zip(trainings, reports, strict=True), start=1):
            if self._format == "text":
                title = f"training {number} of {len(reports)}: {safe_line(training.name)}\n" if len(reports) > 1 else ""
                print_error(f"\n{title}{report}")
            if self._file is not None and not in_one:
                path = self._file if number == 1 else self._file.with_stem(f"{self._file.stem}-{number}")
                status = max(status, self._save(path, report.save))
        if self._file is not None and in_one:
            status = self._save(self._file, lambda path: write_atomic(path, formatted("sarif", trainings, NAME) + "\n"))
        return status

    @staticmethod
    def _save(file: Path, save: Callable[[Path], Path]) -> int:
        try:
            print_error(f"\nreport: {escaped(str(save(file)))}")
        except InputError as error:
            print_error(f"autotrainer: {error}")
            return 2
        return 0


def _module_file(module: str) -> str:
    """Return the file that ``python -m`` runs for a module; empty if unknown. No package is imported for that."""
    with suppress(Exception):  # whatever finders the script has installed
        path: list[str] | None = None
        name = ""
        for part in (*module.split("."), "__main__"):
            name = f"{name}.{part}" if name else part
            spec = PathFinder.find_spec(name, path)
            if spec is None:
                return ""
            if spec.submodule_search_locations is None:
                last = name in (module, f"{module}.__main__")
                return spec.origin or "" if last and spec.has_location else ""
            path = list(spec.submodule_search_locations)
    return ""
