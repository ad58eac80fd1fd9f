"""Outcomes from the rows of ``repair``: how close each method came to the known fix, for each budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.cases.scoring import case_state, is_faulty
from benchmarks.execution.pool import Row
from benchmarks.execution.runs import case_of

__all__ = ["ORIGINAL", "WORSE", "Outcome", "clipped_ratio", "outcomes"]

WORSE = 0.02
"""A repaired training got worse if its test score lies more than this below the original."""

ORIGINAL = "original"
"""The method that does nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one method for one case, seed and budget.

    Attributes:
        case: Name of the case.
        source: Source of the case.
        framework: ``pytorch`` or ``keras3``.
        seed: Seed of the training.
        method: ``fit``, an alternative, or `ORIGINAL`.
        budget: Work allowed, in original trainings.
        original: Test score of the original training.
        repaired: Test score of the training that the method returned.
        fixed: Test score of the known fix.
        fix_cost: Work of the known fix.
        cost: Work done; NaN if the method crashed.
        cost_to_win: Work up to the end of the winning attempt; None if none won.
        plan: Description of the winning attempt; None if none won.
        status: Status reported by the method.
        findings: Reported findings: severity and problem.
        error: Why the method crashed, or None. A crash counts as no repair.
    """

    case: str
    source: str
    framework: str
    seed: int
    method: str
    budget: float
    original: float
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

        An unchanged training gains nothing: the two runs differ only in the order of rows.
        """
        return clipped_ratio(self.original, self.repaired, self.fixed) if self.plan is not None else 0.0

    @property
    def worse(self) -> bool:
        """Whether a changed training scores clearly below the original."""
        return self.plan is not None and self.repaired < self.original - WORSE

    @property
    def fix_affordable(self) -> bool:
        """Whether the budget covers the known fix, with some margin to find it."""
        return self.fix_cost <= self.budget - 0.2


def clipped_ratio(original: float, repaired: float, fixed: float) -> float:
    """Return the improvement ratio: the share of the way from the original score to the fix's, in [0, 1].

    A score of NaN counts as no gain.
    """
    ratio = (repaired - original) / (fixed - original)
    return float(np.clip(ratio, 0, 1)) if np.isfinite(ratio) else 0.0


def outcomes(rows: Iterable[Row], framework: str) -> tuple[list[Outcome], list[str]]:
    """Return the outcomes of each case that shows its fault, and descriptions of what was left out and why.

    A case counts if its scores over the seeds show the fault (`cases.scoring.case_state`), with those of its seeds that
    show it themselves.

    Args:
        rows: Rows of one framework.
        framework: Its name.
    """
    by_case: dict[tuple[str, str], list[Row]] = {}
    results: list[Outcome] = []
    left_out: list[str] = []
    for row in rows:
        if "error" in row:
            left_out.append(f"{_name(row)}: {row['error']}")
        else:
            by_case.setdefault((row["task"]["source"], row["task"]["case"]), []).append(row)
    for of_case in by_case.values():
        case = case_of(of_case[0]["task"])
        original, fixed = ([row[key] for row in of_case] for key in ("given", "fixed"))
        state = case_state(case, original, fixed, framework)
        if state != "faulty":
            left_out.append(f"{case.id}: {state}")
            continue
        for row in of_case:
            if not is_faulty(case, row["given"], row["fixed"]) or row["fixed"] <= row["given"]:
                left_out.append(
                    f"{_name(row)}: scores {row['given']:.3f} original, {row['fixed']:.3f} fixed: no fault shows"
                )
                continue
            results += _outcomes_of(row, case.source, framework)
    return results, left_out


def _outcomes_of(row: Row, source: str, framework: str) -> list[Outcome]:
    """Return the outcomes of a row; a method that crashed leaves the original training and has no cost."""
    task = row["task"]
    unchanged: Row = {"repaired": row["given"], "cost_to_win": None, "plan": None}
    entries: list[Row] = [{**unchanged, "cost": math.nan, **entry} for entry in row["methods"]]
    entries += [{**unchanged, "cost": 1.0, "method": ORIGINAL, "budget": budget} for budget in task["budgets"]]
    return [
        Outcome(
            case=task["case"],
            source=source,
            framework=framework,
            seed=task["seed"],
            method=entry["method"],
            budget=entry["budget"],
            original=row["given"],
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
