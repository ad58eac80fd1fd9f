"""``python -m benchmarks detect|repair|overhead``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from autotrainer.errors import AutotrainerError

__all__ = ["main"]

FRAMEWORKS = ("pytorch", "keras3")


def main(arguments: list[str] | None = None) -> int:
    """Run one benchmark and print its tables; return the exit status (2: bad input)."""
    given = _parser().parse_args(arguments)
    frameworks = FRAMEWORKS if given.framework == "all" else (given.framework,)
    try:
        print(_run(given, frameworks))
    except AutotrainerError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return 0


def _run(given: argparse.Namespace, frameworks: tuple[str, ...]) -> str:
    if given.command == "overhead":
        from benchmarks.overhead import overhead

        return overhead(frameworks, quick=given.quick, out=given.out)
    from benchmarks.detect import QUICK, detect
    from benchmarks.runs import Runs

    names = tuple(given.only) or (QUICK if given.quick else ())
    runs = Runs(frameworks, tuple(given.cases.split(",")), given.seeds, names, given.out, given.workers)
    if given.command == "detect":
        return detect(runs, given.overhead)
    from benchmarks.repair import repair

    return repair(runs, given.budget)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in (
        ("detect", "are faulty trainings found, named, and found early?"),
        ("repair", "does fit repair them, and at what cost?"),
        ("overhead", "what does watching cost?"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--framework", choices=(*FRAMEWORKS, "all"), default="all")
        command.add_argument("--quick", action="store_true", help="a small part, for a look")
        command.add_argument("--out", type=Path, help="JSON lines file; rows that it holds are not run again")
        if name == "overhead":
            continue
        command.add_argument("--cases", default="real,zoo", help="sources of cases, with commas (default: %(default)s)")
        command.add_argument("--only", nargs="+", default=[], metavar="ID", help="run these cases alone")
        command.add_argument("--seeds", type=int, default=1, help="seeds a case (default: %(default)s)")
        command.add_argument("--workers", type=int, default=2, help="processes at a time (default: %(default)s)")
        if name == "detect":
            command.add_argument(
                "--overhead", type=float, default=0.01, help="share that watch may cost (default: %(default)s)"
            )
        else:
            command.add_argument("--budget", type=float, default=3.0, help="work in trainings (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
