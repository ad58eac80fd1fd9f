"""``python -m benchmarks detect|repair|overhead|calibrate|compare|page``."""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
from pathlib import Path

from autotrainer.errors import AutotrainerError

__all__ = ["main"]

FRAMEWORKS = ("pytorch", "keras3")

CASES = "real,zoo"

_PLACES = ("--curves", "--html", "--out", "--output", "--page", "-o")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its tables.

    Returns:
        The exit status: 2 for bad input, 130 after an interrupt.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if getattr(given, "html", None) and not given.out:
        parser.error("--html shows the rows in --out: give both")
    try:
        shown = _shown(given, sys.argv[1:] if arguments is None else arguments)
        print(f"`python -m benchmarks {shown}`\n\n{_run(given)}")
    except AutotrainerError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        out = getattr(given, "out", None)
        kept = f"; the same command goes on from the rows in {out}" if out else ""
        print(f"benchmarks: interrupted{kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the tables has seen enough
        return 0
    return 0


def _run(given: argparse.Namespace) -> str:
    if given.command == "compare":
        from benchmarks.reporting.compare import compare

        return compare(given.before, given.after)
    if given.command == "page":
        from benchmarks.reporting.page import page
        from benchmarks.reporting.suites import read_suites

        page(read_suites(given.rows), given.output)
        return f"Written: {given.output}"
    html = getattr(given, "html", None)
    if html:
        from benchmarks.execution.files import require_writable
        from benchmarks.reporting.plots import require

        require()  # not after hours of training
        require_writable(html)
    text = _measure(given)
    if html:
        from benchmarks.reporting.page import page
        from benchmarks.reporting.suites import read_suites

        page(read_suites([given.out]), html)
    return text


def _measure(given: argparse.Namespace) -> str:
    frameworks = FRAMEWORKS if given.framework == "all" else (given.framework,)
    if given.command == "overhead":
        from benchmarks.overhead.suite import overhead
        from benchmarks.reporting.published import published

        models, settings = _names(given.models), _names(given.settings)
        text = overhead(frameworks, quick=given.quick, out=given.out, models=models, settings=settings)
        return f"{text}\n\n{published('overhead')}"
    from benchmarks.detect import suite as detect
    from benchmarks.execution.runs import Runs
    from benchmarks.repair import suite as repair

    quick = (repair if given.command == "repair" else detect).QUICK
    names = tuple(given.only) or (quick if given.quick and given.cases == CASES else ())
    runs = Runs(frameworks, _names(given.cases), given.seeds, names, given.out, given.workers, given.retry)
    if given.command == "detect":
        return detect.detect(runs, given.overhead)
    if given.command == "calibrate":
        from benchmarks.calibration.suite import calibrate

        return calibrate(runs, given.overhead, given.curves, plots=not given.no_plots, page=given.page)
    return repair.repair(runs, given.budget, _names(given.methods))


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _shown(given: argparse.Namespace, arguments: list[str]) -> str:
    """Return the command without the places of files, which are of no use elsewhere."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _PLACES:
            skip = True
        elif argument.partition("=")[0] not in _PLACES:
            kept.append(Path(argument).name if given.command in ("compare", "page") else argument)
    return shlex.join(kept)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share above 0, at most 1")
    return share


def _budgets(text: str) -> tuple[float, ...]:
    try:
        budgets = sorted({float(part) for part in text.split(",")})
    except ValueError:
        budgets = [math.nan]
    if not all(map(math.isfinite, budgets)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor several with commas")
    return tuple(budgets)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What autotrainer is worth, measured.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("detect", "are faulty trainings found, named, and found early?"),
        ("repair", "does fit repair them, at what cost, beside what else?"),
        ("overhead", "what does watching cost?"),
        ("calibrate", "what would other thresholds of the rules find?"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--framework", choices=(*FRAMEWORKS, "all"), default="all")
        command.add_argument("--quick", action="store_true", help="a small part, for a look: at most 5 minutes")
        command.add_argument("--out", type=Path, help="JSON lines file; rows that it holds are not run again")
        if name != "calibrate":
            command.add_argument("--html", type=Path, help="page of the rows in --out, with plots")
        if name == "overhead":
            command.add_argument("--models", default="", help="models, with commas (default: all)")
            command.add_argument("--settings", default="", help="settings and rivals, with commas (default: all)")
            continue
        command.add_argument("--cases", default=CASES, help="sources of cases, with commas (default: %(default)s)")
        command.add_argument("--only", nargs="+", default=[], metavar="ID", help="run these cases alone")
        command.add_argument("--seeds", type=_count, default=1, help="seeds a case (default: %(default)s)")
        command.add_argument("--retry", action="store_true", help="run again what crashed, by the rows in --out")
        command.add_argument("--workers", type=_count, default=2, help="processes at a time (default: %(default)s)")
        if name == "repair":
            command.add_argument("--budget", type=_budgets, default=(3.0,), help="trainings, with commas (default: 3)")
            command.add_argument(
                "--methods", default="", help="what repairs: fit, random uniform, …, with commas (default: all)"
            )
            continue
        share = 0.01 if name == "detect" else 1.0
        command.add_argument(
            "--overhead", type=_share, default=share, help="share that watch may cost (default: %(default)s)"
        )
        if name == "calibrate":
            command.add_argument("--curves", type=Path, help="folder of the curves (default: beside --out)")
            command.add_argument(
                "--page", type=Path, help="file of what the rules' own pages show: rules/calibration.json"
            )
            command.add_argument("--no-plots", action="store_true", help="save the curves' numbers alone")
    about = "what changed from one file of rows to another, beyond noise?"
    command = commands.add_parser("compare", help=about, description=about)
    command.add_argument("before", type=Path, metavar="A.jsonl")
    command.add_argument("after", type=Path, metavar="B.jsonl")
    about = "tables and plots of stored rows, as one HTML page"
    command = commands.add_parser("page", help=about, description=about)
    command.add_argument("rows", type=Path, nargs="+", metavar="ROWS.jsonl")
    command.add_argument("-o", "--output", type=Path, default=Path("benchmarks.html"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
