"""``python -m benchmarks sweep``: how much work a sweep saves, and what it loses, with each way to stop trials.

The trials of each search space are drawn at random and trained to their end, watched; the sweeps are then run over
these trials, in several orders. A trial is healthy if it ends at least halfway from the most frequent class's accuracy
to the best score of its space, and sick if it ends within a tenth of that way. An oracle that knows the sick ones
before they begin shows the most that stopping them can save.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.cases.case import Case
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.reporting.tables import interval_share, number, table
from benchmarks.sweep.trials import HEALTHY, SICK, progress_of, stopped_early

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
    from benchmarks.sweep.simulation import METHODS, RIVALS, sweep  # needs Optuna

    valid = [row for row in rows if "error" not in row]
    pairs = [(row, order) for row in valid for order in range(_ORDERS)]
    full = [sweep(row, "no pruning", order) for row, order in pairs]
    lines, until = [], {}
    for method in METHODS:
        sweeps = [sweep(row, method, order) for row, order in pairs]
        reached = sum(math.isfinite(s.until_best) for s in sweeps)
        until[method] = _mean([min(s.until_best, s.work) / f.until_best for s, f in zip(sweeps, full, strict=True)])
        work = _mean([s.work / f.work for s, f in zip(sweeps, full, strict=True)])
        lost = _mean([f.score - s.score for s, f in zip(sweeps, full, strict=True)])
        lines.append([method, number(until[method]), number(work), f"{reached} of {len(sweeps)}", number(lost, 4)])
    head = ["method", "work until the best score, of that without", "whole sweep", "best score reached", "score lost"]
    failed = f"; {len(rows) - len(valid)} failed" if len(valid) < len(rows) else ""
    total = sum(len(row["trials"]) for row in valid)
    return "\n\n".join(
        [
            f"## Sweeps, {framework}",
            provenance_line(rows),
            f"{len(valid)} spaces and seeds{failed}, {total} trials, {_ORDERS} orders of each.",
            table(head, lines),
            _against_rivals(until, RIVALS),
            _stops(valid),
        ]
    )


def _against_rivals(until: Mapping[str, float], rivals: Sequence[str]) -> str:
    """Return how far below the best pruner alone the best combinations with it are."""
    best = min(rivals, key=lambda name: until[name])

    def below(method: str) -> str:
        return f"{100 * (1 - until[method] / until[best]):.0f} %"

    return (
        f"Until the best score, {best} + ours takes {below(f'{best} + ours')} less work than {best}, the best pruner "
        f"alone; no way to stop sick trials beside it can take more than {below(f'{best} + oracle')} less."
    )


def _stops(rows: Sequence[Row]) -> str:
    """Return which trials are stopped, and when."""
    trials = [(trial, way) for row in rows for trial, way in zip(row["trials"], progress_of(row), strict=True)]
    healthy = [trial for trial, way in trials if way >= HEALTHY]
    sick = [trial for trial, way in trials if way <= SICK]
    done = [trial["stopped"] / len(trial["values"]) for trial in sick if stopped_early(trial)]
    spared = sum(1 - share for share in done) / len(sick) if sick else math.nan
    median = f", after {number(statistics.median(done))} of their epochs in the median" if done else ""
    return (
        f"Healthy trials stopped: {interval_share(sum(map(stopped_early, healthy)), len(healthy))}. Sick trials: "
        f"{len(sick)} of {len(trials)}, of which stopped: {interval_share(len(done), len(sick))}{median}; of the work "
        f"on sick trials, {number(spared)} is spared."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
