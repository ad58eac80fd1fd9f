"""Rows of ``detect`` become verdicts: what each training was, by its score, and what the monitor said of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cases.case import Case
from benchmarks.cases.scoring import is_faulty, is_healthy, verdict
from benchmarks.execution.pool import Row
from benchmarks.execution.runs import case_of

__all__ = ["LATE", "MONITORS", "Verdict", "judge", "judge_all", "rivals", "within"]

LATE = frozenset({"too_few_epochs", "overfitting", "insufficient_capacity"})
"""Problems that need the end of a training; the delay of a case that is nothing else does not count."""

MONITORS = ("autotrainer", "null monitor", "paranoid monitor")
"""What stands in the tables: ours, one that never finds anything, and one that always finds everything at once."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one training was judged.

    Attributes:
        case: Name of the case; its fixed twin has ``+fix`` behind it.
        source: ``real``, ``zoo`` or ``generated``.
        faulty: Whether its score shows a fault.
        score: Test score.
        errors: Problems with an error at the end.
        raised: Problems with an error at any time.
        warnings: Problems with a warning at the end.
        rank: Place of the first finding that names the true cause, from 1, infos left out; None if there is none.
        accepted: Problems that name the true cause; empty if it is not known or the training is healthy.
        first_error: Step of the first error, or None.
        steps: Planned steps.
        seed: Its seed.
        framework: ``pytorch`` or ``keras3``.
        roots: Problem and confidence of each error or warning at the end that names no cause.
    """

    case: str
    source: str
    faulty: bool
    score: float
    errors: tuple[str, ...]
    raised: tuple[str, ...]
    warnings: tuple[str, ...]
    rank: int | None
    accepted: frozenset[str]
    first_error: int | None
    steps: int
    seed: int = 0
    framework: str = "pytorch"
    roots: tuple[tuple[str, float], ...] = ()

    @property
    def named(self) -> bool | None:
        """Whether the true cause is among the first two findings; None if it is not known or the training healthy."""
        return (self.rank is not None and self.rank <= 2) if self.accepted else None

    @property
    def early(self) -> bool | None:
        """Whether the first error came before 20 % of the planned steps or within 50 steps, whichever is later.

        None if the training is healthy or its fault needs the end of a training.
        """
        if not self.faulty or not self.accepted - LATE:
            return None
        return self.first_error is not None and self.first_error < max(0.2 * self.steps, 50)

    @property
    def delay(self) -> float | None:
        """Step of the first error ÷ planned steps, where `early` counts and there was one."""
        return None if self.early is None or self.first_error is None else self.first_error / self.steps

    @property
    def unit(self) -> str:
        """What seeds share: the case."""
        return self.case


def judge(row: Row, framework: str) -> tuple[list[Verdict], list[str]]:
    """Judge one row; see `judge_all`."""
    return judge_all([row], framework)


def judge_all(rows: Iterable[Row], framework: str) -> tuple[list[Verdict], list[str]]:
    """Judge the trainings of one framework.

    A case is what its scores over the seeds say (`cases.scoring.verdict`); of its trainings those count whose own
    scores say the same.

    Returns:
        A verdict for each training whose state is known from its score, and in words what was left out and why.
    """
    by_case: dict[tuple[str, str], list[Row]] = {}
    verdicts, left_out = [], []
    for row in rows:
        task = row["task"]
        if "error" in row:
            left_out.append(f"{_name(task)}: {row['error']}")
        else:
            by_case.setdefault((task["source"], task["case"]), []).append(row)
    for of_case in by_case.values():
        found, words = _judge_case(of_case, framework)
        verdicts += found
        left_out += words
    return verdicts, left_out


def within(verdicts: Sequence[Verdict]) -> int:
    """Return how many cases these trainings are of: what an interval may count as independent."""
    return len({v.unit for v in verdicts})


def rivals(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Return the verdicts as they are and as two monitors that look at nothing would have given them.

    The paranoid monitor raises every problem at step 0, in alphabetical order; the problems are all that any
    training here had or was said to have.
    """
    known = sorted({p for v in verdicts for p in (*v.accepted, *v.raised, *v.errors, *v.warnings)})
    silent = [replace(v, errors=(), raised=(), warnings=(), rank=None, first_error=None) for v in verdicts]
    loud = [
        replace(
            v,
            errors=tuple(known),
            raised=tuple(known),
            warnings=tuple(known),
            rank=_rank(known, v.accepted),
            first_error=0,
        )
        for v in verdicts
    ]
    return dict(zip(MONITORS, (list(verdicts), silent, loud), strict=True))


def _judge_case(rows: Sequence[Row], framework: str) -> tuple[list[Verdict], list[str]]:
    case = case_of(rows[0]["task"])
    given, fixed = [_given(row) for row in rows], [_fixed(row) for row in rows]
    known = [] if any(map(math.isnan, fixed)) else fixed
    state = verdict(case, given, known, framework)
    verdicts, left_out = [], []
    for row in rows:
        name, scores = _name(row["task"]), (_given(row), _fixed(row))
        if state == "faulty" and is_faulty(case, *scores):
            verdicts.append(_verdict(case, row, "given", faulty=True))
        elif state == "healthy" and is_healthy(case, scores[0], framework):
            verdicts.append(_verdict(case, row, "given", faulty=False))
        elif state in ("faulty", "healthy"):
            left_out.append(f"{name}: {scores[0]:.3f} as given, {scores[1]:.3f} fixed: not {state}, as other seeds are")
        if "fixed" in row and is_healthy(case, scores[1], framework):
            verdicts.append(_verdict(case, row, "fixed", faulty=False))
        elif "fixed" in row:
            left_out.append(f"{name}: its fix scores {scores[1]:.3f}, not what it is known to reach")
    if state not in ("faulty", "healthy"):
        left_out.append(f"{case.id}: {state}")
    return verdicts, left_out


def _given(row: Row) -> float:
    return float(row["given"]["score"])


def _fixed(row: Row) -> float:
    return float(row["fixed"]["score"]) if row.get("fixed") else math.nan


def _name(task: Row) -> str:
    return f"{task['case']} (seed {task['seed']})"


def _verdict(case: Case, row: Row, variant: str, *, faulty: bool) -> Verdict:
    entry, task = row[variant], row["task"]
    telling = [f for f in entry["findings"] if f["severity"] != "info"]
    accepted = case.accepted if faulty else frozenset()
    return Verdict(
        case=f"{case.id}+fix" if variant == "fixed" else case.id,
        source=case.source,
        faulty=faulty,
        score=entry["score"],
        errors=_problems(telling, "error"),
        raised=tuple(dict.fromkeys(f["problem"] for f in entry["raised"] if f["severity"] == "error")),
        warnings=_problems(telling, "warning"),
        rank=_rank([f["problem"] for f in telling], accepted),
        accepted=accepted,
        first_error=entry["first_error"],
        steps=entry["steps"],
        seed=task["seed"],
        framework=task["framework"],
        roots=tuple((f["problem"], f["confidence"]) for f in telling if f["caused_by"] is None),
    )


def _rank(problems: Sequence[str], accepted: frozenset[str]) -> int | None:
    return next((i for i, problem in enumerate(problems, 1) if problem in accepted), None)


def _problems(findings: Iterable[Row], severity: str) -> tuple[str, ...]:
    return tuple(f["problem"] for f in findings if f["severity"] == severity)
