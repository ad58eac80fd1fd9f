"""``python -m benchmarks repair``: does `autotrainer.fit` repair faulty trainings, and at what cost?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.cases import Case
from benchmarks.pool import Row, Task
from benchmarks.runs import Runs, case_of, each_task
from benchmarks.scoring import is_faulty
from benchmarks.tables import share, table

__all__ = ["WORSE", "clipped_ratio", "repair", "summarize"]

WORSE = 0.02
"""A repaired training got worse if its test score lies more than this below that of the training as given."""


def repair(runs: Runs, budget: float) -> str:
    """Run the benchmark on all cases that have a known fix.

    Args:
        runs: What to run.
        budget: Work that `fit` may do, in trainings as given.

    Returns:
        The summary, Markdown.
    """

    def tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        fixable = [case for case in cases if case.fixed is not None]
        return [{**task, "budget": budget} for _, task in each_task(fixable, framework, runs.seeds)]

    def told(rows: Sequence[Row], framework: str) -> str:
        return f"### {framework}, budget {budget:g}\n\n{summarize(rows, budget)}"

    return runs.summaries("benchmarks.repair_run", tasks, told, timeout=1800)


def clipped_ratio(given: float, repaired: float, fixed: float) -> float:
    """Return the improvement ratio: how much of the way from the score as given to the fix's, in [0, 1]."""
    return float(np.clip((repaired - given) / (fixed - given), 0, 1))


def summarize(rows: Iterable[Row], budget: float) -> str:
    """Return the tables of a run as Markdown.

    Cases whose fix costs more than the budget less 0.2 are told apart: no repair within the budget can be known.
    """
    within: dict[str, list[Row]] = {}
    beyond: list[Row] = []
    left_out, lines = [], []
    for row in rows:
        task = row["task"]
        case = case_of(task)
        name = f"{case.id} (seed {task['seed']})"
        if "error" in row:
            left_out.append(f"{name}: {row['error']}")
        elif not is_faulty(case, row["given"], row["fixed"]) or row["fixed"] <= row["given"]:
            left_out.append(f"{name}: scores {row['given']:.3f} as given, {row['fixed']:.3f} fixed: no fault shows")
        else:
            # What is returned as it was given gained nothing: its two trainings differ by the order of rows alone.
            row["ratio"] = clipped_ratio(row["given"], row["repaired"], row["fixed"]) if row["plan"] else 0.0
            (within.setdefault(task["source"], []) if row["fix_cost"] <= budget - 0.2 else beyond).append(row)
            lines.append(_case(name, row))
    groups = [*within.items(), ("all", [row for found in within.values() for row in found])]
    if beyond:
        groups.append(("fix beyond the budget", beyond))
    head = [
        "cases",
        "n",
        "mean clipped IR",
        "IR ≥ 0.9",
        "IR > 0",
        "got worse",
        "cost to win, median",
        "p90",
        "largest cost",
    ]
    detail = ["case", "given", "repaired", "fixed", "IR", "status", "cost", "to win", "fix cost", "findings", "changes"]
    parts = [table(head, [_group(*group) for group in groups]), "", table(detail, lines)]
    if left_out:
        parts += ["", "Left out:", *(f"* {words}" for words in left_out)]
    return "\n".join(parts)


def _group(name: str, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return [name, "0", *["–"] * 7]
    ratios = [row["ratio"] for row in rows]
    worse = sum(row["repaired"] < row["given"] - WORSE for row in rows if row["plan"])
    wins = [row["cost_to_win"] for row in rows if row["cost_to_win"] is not None and row["ratio"] > 0]
    return [
        name,
        str(len(rows)),
        f"{np.mean(ratios):.3f}",
        share(sum(r >= 0.9 for r in ratios), len(rows)),
        share(sum(r > 0 for r in ratios), len(rows)),
        str(worse),
        f"{np.median(wins):.2f}" if wins else "–",
        f"{np.quantile(wins, 0.9):.2f}" if wins else "–",
        f"{max(row['cost'] for row in rows):.2f}",
    ]


def _case(name: str, row: Row) -> list[str]:
    to_win = row["cost_to_win"]
    return [
        name,
        f"{row['given']:.3f}",
        f"{row['repaired']:.3f}",
        f"{row['fixed']:.3f}",
        f"{row['ratio']:.2f}",
        row["status"],
        f"{row['cost']:.2f}",
        "–" if to_win is None else f"{to_win:.2f}",
        f"{row['fix_cost']:.2f}",
        ", ".join(row["findings"][:3]),
        (row["plan"] or "–").replace("|", "/")[:160],
    ]
