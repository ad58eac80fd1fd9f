"""``python -m benchmarks sweep``: how much work a sweep saves, and what it loses, with each way to stop trials.

The trials of each search space are drawn at random and trained to their end, watched; the sweeps are then run over
these trials, in several orders. A trial is healthy if it ends at least halfway from the most frequent class's accuracy
to the best score of its space, and sick if it ends within a tenth of that way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks.cases.case import Case
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.reporting.tables import interval_share, number, table

__all__ = ["NAMES", "QUICK", "sweep", "tasks"]

NAMES = (
    "digits.mlp.rate_too_high.3000",
    "wine.mlp.rate_too_high.3000",
    "cancer.mlp.rate_too_high.3000",
    "spirals.mlp.summed_loss.3000",
    "so46620813",
    "so46995209",
)
"""Cases whose working training is the centre of a search space: four generated ones and two real ones."""
QUICK = NAMES[:2]

_EPOCHS, _TRIALS, _ORDERS = 20, 24, 10


def tasks(cases: Sequence[Case], framework: str, seeds: int, trials: int = _TRIALS) -> list[Task]:
    """Return a task for each space and seed."""
    return [{**task, "epochs": _EPOCHS, "trials": trials} for _, task in each_task(cases, framework, seeds)]


def sweep(runs: Runs, trials: int = _TRIALS) -> str:
    """Run the benchmark and return its tables, Markdown."""

    def make_tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        return tasks(cases, framework, runs.seeds, trials)

    rows = runs.rows("benchmarks.sweep.run", make_tasks, timeout=3600)
    return "\n\n".join(_report(part, framework) for framework, part in by_framework(rows).items())


def _report(rows: Sequence[Row], framework: str) -> str:
    from benchmarks.sweep.simulation import METHODS, sweep  # needs Optuna

    valid = [row for row in rows if "error" not in row]
    lines = []
    for method in METHODS:
        sweeps = [(row, sweep(row["trials"], method, order)) for row in valid for order in range(_ORDERS)]
        full = [sweep(row["trials"], "no pruning", order) for row in valid for order in range(_ORDERS)]
        reached = sum(math.isfinite(s.until_best) for _, s in sweeps)
        until = [min(s.until_best, s.work) / f.until_best for (_, s), f in zip(sweeps, full, strict=True)]
        lost = [f.score - s.score for (_, s), f in zip(sweeps, full, strict=True)]
        work = [s.work / f.work for (_, s), f in zip(sweeps, full, strict=True)]
        lines.append(
            [method, number(_mean(until)), number(_mean(work)), f"{reached} of {len(sweeps)}", number(_mean(lost), 4)]
        )
    head = ["method", "work until the best score, of that without", "whole sweep", "best score reached", "score lost"]
    kinds = [_kinds(row) for row in valid]
    healthy, stopped = sum(k[0] for k in kinds), sum(k[1] for k in kinds)
    sick, caught = sum(k[2] for k in kinds), sum(k[3] for k in kinds)
    total = sum(len(row["trials"]) for row in valid)
    failed = f"; {len(rows) - len(valid)} failed" if len(valid) < len(rows) else ""
    return "\n\n".join(
        [
            f"## Sweeps, {framework}",
            provenance_line(rows),
            f"{len(valid)} spaces and seeds{failed}, {total} trials, {_ORDERS} orders of each.",
            table(head, lines),
            f"Healthy trials stopped: {interval_share(stopped, healthy)}. Sick trials: {sick} of {total}, "
            f"of which stopped: {interval_share(caught, sick)}.",
        ]
    )


def _kinds(row: Row) -> tuple[int, int, int, int]:
    """Return the numbers of healthy trials, those of them stopped, sick trials, and those of them stopped."""
    trivial, trials = row["trivial"], row["trials"]
    best = max((t["values"][-1] for t in trials if not math.isnan(t["values"][-1])), default=trivial)

    def way(trial: Row) -> float:
        value = trial["values"][-1]
        return -math.inf if math.isnan(value) or best <= trivial else (value - trivial) / (best - trivial)

    healthy = [t for t in trials if way(t) >= 0.5]
    sick = [t for t in trials if way(t) <= 0.1]
    return len(healthy), sum(_stopped(t) for t in healthy), len(sick), sum(_stopped(t) for t in sick)


def _stopped(trial: Row) -> bool:
    return trial["stopped"] is not None and trial["stopped"] < len(trial["values"])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
