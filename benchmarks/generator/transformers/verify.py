"""``python -m benchmarks.generator.transformers.verify transformers:80:0``: which faults cost score?

Each case is trained with its fault and without, unwatched, with several seeds, one after the other in one process. A
fault passes where its score is more than `MARGIN` below that of its healthy twin with every seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.cases.case import Program, load_cases
from benchmarks.cases.scoring import MARGIN
from benchmarks.data.datasets import load
from benchmarks.reporting.tables import table

__all__ = ["costs", "passed", "summary"]

_SILENT = SimpleNamespace(log=lambda **_: None, end_epoch=lambda **_: None)

Row = dict[str, Any]


def costs(sources: Sequence[str], framework: str = "pytorch", seeds: Sequence[int] = (0, 1)) -> Iterator[Row]:
    """Train cases and yield, for each, its ``component`` and the scores with (``given``) and without the fault."""
    build = importlib.import_module(f"benchmarks.programs.{framework}")
    twins: dict[str, list[float]] = {}

    def scores(program: Program) -> list[float]:
        return [
            build.train(program, load(program, seed), seed, lambda *_, **__: nullcontext(_SILENT))[0] for seed in seeds
        ]

    for case in load_cases(sources):
        if framework in case.frameworks and case.fixed is not None:
            twin = repr(case.fixed)
            if twin not in twins:
                twins[twin] = scores(case.fixed)
            yield {"case": case.id, "component": case.component, "given": scores(case.original), "fixed": twins[twin]}


def passed(row: Row) -> bool:
    """Return whether the fault costs score with every seed."""
    return all(fixed - given > MARGIN for given, fixed in zip(row["given"], row["fixed"], strict=True))


def summary(rows: Sequence[Row]) -> str:
    """Return what each fault costs, as Markdown."""
    lines = []
    for row in sorted(rows, key=lambda row: (row["component"], row["case"])):
        given, fixed = (" ".join(f"{score:.3f}" for score in row[key]) for key in ("given", "fixed"))
        lines.append([row["component"], row["case"], given, fixed, "yes" if passed(row) else "no"])
    total = f"{sum(map(passed, rows))} of {len(rows)} faults cost score"
    return f"{table(['component', 'case', 'with the fault', 'without', 'costs score'], lines)}\n\n{total}"


def main() -> None:
    """Verify the cases of the command line, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", help="sources of cases, such as transformers:80:0")
    parser.add_argument("--framework", choices=("pytorch", "keras3"), default="pytorch")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON lines file for the rows")
    options = parser.parse_args()
    rows = []
    for row in costs(options.sources, options.framework, range(options.seeds)):
        rows.append(row)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(summary(rows))


if __name__ == "__main__":
    main()
