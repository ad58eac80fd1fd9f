"""``python -m benchmarks detect|repair|overhead|agreement|calibrate|scripts|…``, and reports of stored rows."""

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

_OF_ROWS = ("compare", "experience", "generalization", "page")
"""Commands that take files with rows."""

_PATH_OPTIONS = ("--curves", "--html", "--out", "--output", "--page", "-o")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its tables.

    Returns:
        The exit status: 2 for bad input, 130 after an interrupt.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if getattr(options, "html", None) and not options.out:
        parser.error("--html needs --out: the page is made from those rows")
    try:
        command_line = _command_line(options, sys.argv[1:] if arguments is None else arguments)
        print(f"`python -m benchmarks {command_line}`\n\n{_run(options)}")
    except AutotrainerError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        out = getattr(options, "out", None)
        hint = f"; run the same command again to resume from the rows in {out}" if out else ""
        print(f"benchmarks: interrupted{hint}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader, such as `head`, closed the pipe
        return 0
    return 0


def _run(options: argparse.Namespace) -> str:
    if options.command == "compare":
        from benchmarks.reporting.compare import compare

        return compare(options.before, options.after)
    if options.command == "generalization":
        from benchmarks.detect.generalization import generalization
        from benchmarks.reporting.suites import read_suites

        return generalization(read_suites(options.rows).get("detect", []))
    if options.command == "experience":
        from benchmarks.repair.experience import experience

        return experience(options.rows, options.output)
    if options.command == "page":
        from benchmarks.reporting.page import page
        from benchmarks.reporting.suites import read_suites

        page(read_suites(options.rows), options.output)
        return f"Written: {options.output}"
    html = getattr(options, "html", None)
    if html:
        from benchmarks.execution.files import require_writable
        from benchmarks.reporting.plots import require

        require()  # before hours of training
        require_writable(html)
    text = _measure(options)
    if html:
        from benchmarks.reporting.page import page
        from benchmarks.reporting.suites import read_suites

        page(read_suites([options.out]), html)
    return text


def _measure(options: argparse.Namespace) -> str:
    frameworks = FRAMEWORKS if options.framework == "all" else (options.framework,)
    if options.command == "overhead":
        from benchmarks.overhead.suite import overhead
        from benchmarks.reporting.published import published

        settings = _names(options.settings)
        if options.sizes is not None:
            from benchmarks.overhead.sizes import sizes

            return sizes(
                frameworks, quick=options.quick, out=options.out, names=tuple(options.sizes), settings=settings
            )
        models = _names(options.models)
        text = overhead(frameworks, quick=options.quick, out=options.out, models=models, settings=settings)
        return f"{text}\n\n{published('overhead')}"
    if options.command == "scripts":
        from benchmarks.scripts.suite import QUICK, scripts

        chosen = tuple(options.only) or (QUICK if options.quick else ())
        return scripts(chosen, frameworks, out=options.out, workers=options.workers, retry=options.retry)
    from benchmarks.agreement import suite as agreement
    from benchmarks.detect import suite as detect
    from benchmarks.execution.runs import Runs
    from benchmarks.repair import suite as repair
    from benchmarks.sweep import suite as sweep

    suites = {"repair": repair, "agreement": agreement, "sweep": sweep}
    quick = suites.get(options.command, detect).QUICK
    default = quick if options.quick else getattr(suites.get(options.command), "NAMES", ())
    names = tuple(options.only) or (default if options.cases == _default_cases(options.command) else ())
    runs = Runs(frameworks, _names(options.cases), options.seeds, names, options.out, options.workers, options.retry)
    if options.command == "sweep":
        return sweep.sweep(runs, options.trials)
    if options.command == "agreement":
        return agreement.agreement(runs, options.repeats)
    if options.command == "detect":
        return detect.detect(runs, options.overhead)
    if options.command == "calibrate":
        from benchmarks.calibration.suite import calibrate

        return calibrate(runs, options.overhead, options.curves, plots=not options.no_plots, page=options.page)
    return repair.repair(runs, options.budget, _names(options.methods))


def _default_cases(command: str) -> str:
    return "real,real2,zoo,generated" if command in ("agreement", "sweep") else CASES


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _command_line(options: argparse.Namespace, arguments: list[str]) -> str:
    """Return the command without file paths, which mean nothing on another machine."""
    shown, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in _PATH_OPTIONS:
            skip = True
        elif argument.partition("=")[0] not in _PATH_OPTIONS:
            shown.append(Path(argument).name if options.command in _OF_ROWS else argument)
    return shlex.join(shown)


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share: it must be above 0 and at most 1")
    return share


def _budgets(text: str) -> tuple[float, ...]:
    try:
        budgets = sorted({float(part) for part in text.split(",")})
    except ValueError:
        budgets = [math.nan]
    if not all(map(math.isfinite, budgets)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number or a comma-separated list of numbers")
    return tuple(budgets)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how well autotrainer detects and repairs faulty trainings, and what it costs.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("detect", "does watching detect faulty trainings early, and name their cause?"),
        ("repair", "does fit repair faulty trainings, at what cost, compared with alternatives?"),
        ("overhead", "what does watching cost?"),
        ("agreement", "does the same training get the same verdict each time, on a busy machine, too?"),
        ("calibrate", "how do detections and false alarms depend on the thresholds of the rules?"),
        ("scripts", "is run right about unmodified programs?"),
        ("sweep", "what does a sweep save if trials with a proven cause are ended, and what does it lose?"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--framework", choices=(*FRAMEWORKS, "all"), default="all")
        command.add_argument("--quick", action="store_true", help="run a small part: at most 5 minutes")
        command.add_argument(
            "--out", type=Path, help="JSON lines file for the rows; tasks whose row it holds are not run again"
        )
        if name not in ("calibrate", "scripts", "sweep"):
            command.add_argument("--html", type=Path, help="HTML page of the rows in --out, with plots")
        if name == "overhead":
            command.add_argument("--models", default="", help="models, comma-separated (default: all)")
            command.add_argument(
                "--settings", default="", help="settings and alternative tools, comma-separated (default: all)"
            )
            command.add_argument(
                "--sizes",
                nargs="*",
                metavar="SIZE",
                help="models of these sizes (default: all sizes), watched unless --settings says otherwise",
            )
            continue
        command.add_argument("--only", nargs="+", default=[], metavar="ID", help="run only these cases")
        command.add_argument(
            "--retry", action="store_true", help="run again the tasks that crashed, according to the rows in --out"
        )
        command.add_argument(
            "--workers", type=_positive_int, default=2, help="parallel processes (default: %(default)s)"
        )
        if name == "scripts":
            continue
        command.add_argument(
            "--cases", default=_default_cases(name), help="sources of cases, comma-separated (default: %(default)s)"
        )
        if name == "agreement":
            command.add_argument(
                "--repeats", type=_positive_int, default=10, help="trainings of a case (default: %(default)s)"
            )
            command.set_defaults(seeds=1)
            continue
        command.add_argument("--seeds", type=_positive_int, default=1, help="seeds per case (default: %(default)s)")
        if name == "sweep":
            command.add_argument(
                "--trials", type=_positive_int, default=24, help="trials of a search space (default: %(default)s)"
            )
            continue
        if name == "repair":
            command.add_argument(
                "--budget", type=_budgets, default=(3.0,), help="budgets in trainings, comma-separated (default: 3)"
            )
            command.add_argument(
                "--methods", default="", help="repair methods: fit, random uniform, …, comma-separated (default: all)"
            )
            continue
        share = 0.01 if name == "detect" else 1.0
        command.add_argument(
            "--overhead",
            type=_share,
            default=share,
            help="share of the time that watching may cost (default: %(default)s)",
        )
        if name == "calibrate":
            command.add_argument("--curves", type=Path, help="folder for the curves (default: next to --out)")
            command.add_argument(
                "--page", type=Path, help="file for the calibration that the rules' pages show: rules/calibration.json"
            )
            command.add_argument("--no-plots", action="store_true", help="save only the numbers of the curves")
    about = "what changed between two files of rows, beyond noise?"
    command = commands.add_parser("compare", help=about, description=about)
    command.add_argument("before", type=Path, metavar="A.jsonl")
    command.add_argument("after", type=Path, metavar="B.jsonl")
    about = "the figures of detect on programs that the rules were made with and on others"
    command = commands.add_parser("generalization", help=about, description=about)
    command.add_argument("rows", type=Path, nargs="+", metavar="ROWS.jsonl")
    about = "what repairs have done in stored rows of repair, as the table that fit orders them by"
    command = commands.add_parser("experience", help=about, description=about)
    command.add_argument("rows", type=Path, nargs="+", metavar="ROWS.jsonl")
    command.add_argument("-o", "--output", type=Path, help="file of the table (autotrainer/search/experience.json)")
    about = "tables and plots of stored rows, as one HTML page"
    command = commands.add_parser("page", help=about, description=about)
    command.add_argument("rows", type=Path, nargs="+", metavar="ROWS.jsonl")
    command.add_argument("-o", "--output", type=Path, default=Path("benchmarks.html"), help="default: %(default)s")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
