"""Rows of ``repair`` become outcomes: how far each method came with each budget, of the way to the known fix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.cases.scoring import is_faulty, verdict
from benchmarks.execution.pool import Row
from benchmarks.execution.runs import case_of

__all__ = ["AS_GIVEN", "WORSE", "Outcome", "clipped_ratio", "outcomes"]

WORSE = 0.02
"""A repaired training got worse if its test score lies more than this below that of the training as given."""

AS_GIVEN = "as given"
"""The method that does nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method made of one case, seed and budget.

    Attributes:
        case: Name of the case.
        source: Where it comes from.
        framework: ``pytorch`` or ``keras3``.
        seed: Its seed.
        method: ``fit``, a rival, or `AS_GIVEN`.
        budget: Work allowed, in trainings as given.
        given: Test score as given.
        repaired: Test score of what the method returned.
        fixed: Test score of the known fix.
        fix_cost: Work of the known fix.
        cost: Work done; NaN if the method crashed.
        cost_to_win: Work up to the end of the winning attempt; None if none won.
        plan: What won, in words; None if nothing did.
        status: What the method says of its result.
        findings: What it found, severity and problem.
        error: Why the method crashed, or None. A crash repairs nothing.
    """

    case: str
    source: str
    framework: str
    seed: int
    method: str
    budget: float
    given: float
    repaired: float
    fixed: float
    fix_cost: float
    cost: float
    cost_to_win: float | None
    plan: str | None
    status: str = ""
    findings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def ratio(self) -> float:
        """Clipped improvement ratio.

        What is returned as it was given gained nothing: its two trainings differ by the order of rows alone.
        """
        return clipped_ratio(self.given, self.repaired, self.fixed) if self.plan is not None else 0.0

    @property
    def worse(self) -> bool:
        """Whether a changed training scores clearly below the training as given."""
        return self.plan is not None and self.repaired < self.given - WORSE

    @property
    def within(self) -> bool:
        """Whether the budget is enough for the known fix, with a little to find it."""
        return self.fix_cost <= self.budget - 0.2


def clipped_ratio(given: float, repaired: float, fixed: float) -> float:
    """Return the improvement ratio: how much of the way from the score as given to the fix's, in [0, 1].

    A score that is not a number gained nothing.
    """
    ratio = (repaired - given) / (fixed - given)
    return float(np.clip(ratio, 0, 1)) if np.isfinite(ratio) else 0.0


def outcomes(rows: Iterable[Row], framework: str) -> tuple[list[Outcome], list[str]]:
    """Return what became of each case that shows its fault, and in words what was left out and why.

    A case is faulty if its scores over the seeds say so (`cases.scoring.verdict`); of its seeds those count that
    show the fault themselves.

    Args:
        rows: Rows of one framework.
        framework: Its name.
    """
    by_case: dict[tuple[str, str], list[Row]] = {}
    found: list[Outcome] = []
    left_out: list[str] = []
    for row in rows:
        if "error" in row:
            left_out.append(f"{_name(row)}: {row['error']}")
        else:
            by_case.setdefault((row["task"]["source"], row["task"]["case"]), []).append(row)
    for of_case in by_case.values():
        case = case_of(of_case[0]["task"])
        given, fixed = ([row[key] for row in of_case] for key in ("given", "fixed"))
        state = verdict(case, given, fixed, framework)
        if state != "faulty":
            left_out.append(f"{case.id}: {state}")
            continue
        for row in of_case:
            if not is_faulty(case, row["given"], row["fixed"]) or row["fixed"] <= row["given"]:
                left_out.append(
                    f"{_name(row)}: scores {row['given']:.3f} as given, {row['fixed']:.3f} fixed: no fault shows"
                )
                continue
            found += _of_row(row, case.source, framework)
    return found, left_out


def _of_row(row: Row, source: str, framework: str) -> list[Outcome]:
    """Return the outcomes of a row; a method that crashed leaves the training as given and has no cost."""
    task = row["task"]
    idle: Row = {"repaired": row["given"], "cost_to_win": None, "plan": None}
    entries: list[Row] = [{**idle, "cost": math.nan, **entry} for entry in row["methods"]]
    entries += [{**idle, "cost": 1.0, "method": AS_GIVEN, "budget": budget} for budget in task["budgets"]]
    return [
        Outcome(
            case=task["case"],
            source=source,
            framework=framework,
            seed=task["seed"],
            method=entry["method"],
            budget=entry["budget"],
            given=row["given"],
            repaired=entry["repaired"],
            fixed=row["fixed"],
            fix_cost=row["fix_cost"],
            cost=entry["cost"],
            cost_to_win=entry["cost_to_win"],
            plan=entry["plan"],
            status=entry.get("status", ""),
            findings=tuple(entry.get("findings", ())),
            error=entry.get("error"),
        )
        for entry in entries
    ]


def _name(row: Row) -> str:
    return f"{row['task']['case']} (seed {row['task']['seed']})"
