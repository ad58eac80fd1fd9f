"""``python -m benchmarks agreement``: does the same training get the same verdict each time?

Each case is trained ten times by itself, and ten times while other processes compute, so that all that it does takes
longer. A repetition agrees if its set of errors is the most frequent one of all repetitions of the case.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from benchmarks.cases.case import Case
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.reporting.tables import share, table

__all__ = ["NAMES", "QUICK", "agreement", "report", "tasks"]

NAMES = (
    "so46620813",
    "so58887284",
    "sse418955",
    "so46577203",
    "so39939881",
    "so60566498",
    "so48385830",
    "so48934338",
    "so46995209",
    "ptf98714",
    "demo_oscillating",
    "digits.mlp.rate_too_high.3000",
    "spirals.mlp.summed_loss.3000",
    "friedman.mlp.raw_targets.3000",
    "cancer_codes.autoencoder.single_rows.3000",
)
"""Rates too high, unscaled data, oscillation, and trainings at the limit of a threshold; none takes long."""

QUICK = ("so46620813", "so58887284", "so46577203")

_GOAL = 0.95


def tasks(cases: Sequence[Case], framework: str, seeds: int, repeats: int) -> list[Task]:
    """Return two tasks for each case and seed: by itself, and with as many busy processes as there are processors."""
    busy = os.cpu_count() or 1
    each = each_task(cases, framework, seeds)
    return [{**task, "repeats": repeats, "busy": count} for _, task in each for count in (0, busy)]


def report(rows: Sequence[Row]) -> str:
    """Return the tables of all rows as Markdown."""
    return "\n\n".join(_of_framework(of_framework, name) for name, of_framework in by_framework(rows).items())


def agreement(runs: Runs, repeats: int = 10) -> str:
    """Run the benchmark, one process at a time.

    Args:
        runs: What to run.
        repeats: Trainings of each case, idle and busy.

    Returns:
        The tables, Markdown.
    """

    def make_tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        return tasks(cases, framework, runs.seeds, repeats)

    return report(runs.rows("benchmarks.agreement.run", make_tasks, timeout=3600))


def _of_framework(rows: Sequence[Row], framework: str) -> str:
    by_case: dict[str, list[Row]] = {}
    for row in rows:
        if "error" not in row:
            by_case.setdefault(f"{row['task']['case']} (seed {row['task']['seed']})", []).append(row)
    lines, totals = [], Counter[str]()
    for name, of_case in by_case.items():
        idle, busy = ([r for row in of_case if bool(row["task"]["busy"]) == b for r in row["runs"]] for b in (0, 1))
        both = [*idle, *busy]
        counts = {
            "idle": _agreeing(idle, _errors),
            "busy": _agreeing(busy, _errors),
            "both": _agreeing(both, _errors),
            "findings": _agreeing(both, _findings),
            "samples": _agreeing(both, _samples),
            "replay": sum(row["logged"] == row["replayed"] for row in of_case),
            "run": sum(row["logged"]["errors"] == row["script"]["errors"] for row in of_case),
        }
        totals.update(counts)
        totals.update({"n idle": len(idle), "n busy": len(busy), "n both": len(both), "n replay": len(of_case)})
        unstable = sorted(_union(both) - _intersection(both))
        seconds = [f"{sum(run['seconds'] for run in part) / len(part):.1f}" if part else "–" for part in (idle, busy)]
        lines.append(
            [name, *_cells(counts, len(idle), len(busy), len(of_case)), " · ".join(seconds), ", ".join(unstable)]
        )
    whole = [totals[f"n {name}"] for name in ("idle", "busy", "replay")]
    lines.append(["all", *_cells(totals, *whole), "", ""])
    head = [
        "case",
        "errors, idle",
        "busy",
        "both",
        "findings",
        "samples",
        "replay",
        "run",
        "s idle · busy",
        "unstable errors",
    ]
    reached = totals["both"] >= _GOAL * totals["n both"]
    goal = f"Goal, the same errors in ≥ {_GOAL:.0%} of the repetitions: {'met' if reached else 'missed'}."
    failed = [f"* {row['task']['case']}: {row['error']}" for row in rows if "error" in row]
    parts = [f"### {framework}", provenance_line(rows), table(head, lines), goal, "\n".join(failed)]
    return "\n\n".join(part for part in parts if part)


def _cells(counts: Counter[str] | dict[str, int], idle: int, busy: int, replays: int) -> list[str]:
    whole = {"idle": idle, "busy": busy, "replay": replays, "run": replays}
    names = ("idle", "busy", "both", "findings", "samples", "replay", "run")
    return [share(counts[name], whole.get(name, idle + busy)) for name in names]


def _agreeing(runs: Sequence[Row], verdict: Callable[[Row], tuple[object, ...]]) -> int:
    """Return how many repetitions have the most frequent verdict."""
    return max(Counter(map(verdict, runs)).values(), default=0)


def _errors(run: Row) -> tuple[object, ...]:
    return tuple(run["errors"])


def _findings(run: Row) -> tuple[object, ...]:
    return tuple(run["findings"])


def _samples(run: Row) -> tuple[object, ...]:
    return tuple(run["samples"])


def _union(runs: Iterable[Row]) -> set[str]:
    return {problem for run in runs for problem in run["errors"]}


def _intersection(runs: Sequence[Row]) -> set[str]:
    return set[str].intersection(*(set(run["errors"]) for run in runs)) if runs else set()
