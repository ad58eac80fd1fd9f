"""Verdicts on the rows of ``detect``: the state of each training by its score, and the findings of the monitor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from benchmarks.cases.case import Case
from benchmarks.cases.scoring import case_state, is_costly, is_faulty, is_healthy
from benchmarks.detect.locating import names_component
from benchmarks.execution.pool import Row
from benchmarks.execution.runs import case_of

__all__ = ["LATE", "MONITORS", "Verdict", "case_count", "judge", "judge_all", "with_reference_monitors"]

LATE = frozenset({"too_few_epochs", "overfitting", "insufficient_capacity"})
"""Problems that only the end of a training shows; the delay of cases without another cause does not count."""

MONITORS = ("autotrainer", "null monitor", "paranoid monitor")
"""Monitors in the tables: ours, one that never finds anything, and one that reports every problem at once."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one training was judged.

    Attributes:
        case: Name of the case; ``+fix`` is appended for its fix.
        source: As `Case.source`.
        faulty: Whether its score shows a fault.
        score: Test score.
        errors: Problems with an error at the end.
        raised: Problems with an error at any time.
        warnings: Problems with a warning at the end.
        rank: Rank of the first finding that names the true cause, from 1, without infos; None if there is none.
        accepted: Problems that name the true cause; empty if it is unknown or the training is healthy.
        first_error: Step of the first error, or None.
        steps: Planned steps.
        seed: Seed of the training.
        framework: ``pytorch`` or ``keras3``.
        family: The program that the case is made from (`Case.family`).
        component: The part of a transformer that its fault is in; empty for other trainings.
        located: Whether one of the first two findings names a true cause or the component; None without a component.
        costly: Whether a faulty training lost much (`scoring.is_costly`).
        roots: Problem and confidence of each error or warning at the end that is not caused by another problem.
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
    family: str = ""
    component: str = ""
    located: bool | None = None
    costly: bool = False

    @property
    def named(self) -> bool | None:
        """Whether the true cause is among the first two findings; None if it is unknown or the training healthy."""
        return (self.rank is not None and self.rank <= 2) if self.accepted else None

    @property
    def early(self) -> bool | None:
        """Whether the first error came before 20 % of the planned steps or within 50 steps, whichever is later.

        None if the training is healthy or only its end shows the fault.
        """
        if not self.faulty or not self.accepted - LATE:
            return None
        return self.first_error is not None and self.first_error < max(0.2 * self.steps, 50)

    @property
    def delay(self) -> float | None:
        """Step of the first error ÷ planned steps, where `early` counts and there was one."""
        return None if self.early is None or self.first_error is None else self.first_error / self.steps


def judge(row: Row, framework: str) -> tuple[list[Verdict], list[str]]:
    """Judge one row; see `judge_all`."""
    return judge_all([row], framework)


def judge_all(rows: Iterable[Row], framework: str) -> tuple[list[Verdict], list[str]]:
    """Judge the trainings of one framework.

    The state of a case follows from its scores over the seeds (`cases.scoring.case_state`); trainings count if their
    own scores agree.

    Returns:
        A verdict for each training whose state its score shows, and descriptions of what was left out and why.
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
        case_verdicts, reasons = _judge_case(of_case, framework)
        verdicts += case_verdicts
        left_out += reasons
    return verdicts, left_out


def case_count(verdicts: Sequence[Verdict]) -> int:
    """Return the number of distinct cases: the independent units of an interval."""
    return len({v.case for v in verdicts})


def with_reference_monitors(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Return the verdicts of autotrainer and those of two trivial monitors, by name (`MONITORS`).

    The paranoid monitor raises every problem at step 0, in alphabetical order: all problems that any of these
    trainings has or that were reported.
    """
    problems = sorted({p for v in verdicts for p in (*v.accepted, *v.raised, *v.errors, *v.warnings)})
    silent = [replace(v, errors=(), raised=(), warnings=(), rank=None, first_error=None) for v in verdicts]
    loud = [
        replace(
            v,
            errors=tuple(problems),
            raised=tuple(problems),
            warnings=tuple(problems),
            rank=_rank(problems, v.accepted),
            first_error=0,
        )
        for v in verdicts
    ]
    return dict(zip(MONITORS, (list(verdicts), silent, loud), strict=True))


def _judge_case(rows: Sequence[Row], framework: str) -> tuple[list[Verdict], list[str]]:
    case = case_of(rows[0]["task"])
    original, fixed = [_original_score(row) for row in rows], [_fixed_score(row) for row in rows]
    fixes = [] if any(map(math.isnan, fixed)) else fixed
    state = case_state(case, original, fixes, framework)
    verdicts, left_out = [], []
    for row in rows:
        name, scores = _name(row["task"]), (_original_score(row), _fixed_score(row))
        if state == "faulty" and is_faulty(case, *scores):
            verdicts.append(_verdict(case, row, "given", faulty=True))
        elif state == "healthy" and is_healthy(case, scores[0], framework):
            verdicts.append(_verdict(case, row, "given", faulty=False))
        elif state in ("faulty", "healthy"):
            left_out.append(f"{name}: {scores[0]:.3f} original, {scores[1]:.3f} fixed: not {state}, unlike other seeds")
        if "fixed" in row and is_healthy(case, scores[1], framework):
            verdicts.append(_verdict(case, row, "fixed", faulty=False))
        elif "fixed" in row:
            left_out.append(f"{name}: its fix scores {scores[1]:.3f}, below its reference score")
    if state not in ("faulty", "healthy"):
        left_out.append(f"{case.id}: {state}")
    return verdicts, left_out


def _original_score(row: Row) -> float:
    return float(row["given"]["score"])


def _fixed_score(row: Row) -> float:
    return float(row["fixed"]["score"]) if row.get("fixed") else math.nan


def _name(task: Row) -> str:
    return f"{task['case']} (seed {task['seed']})"


def _verdict(case: Case, row: Row, variant: str, *, faulty: bool) -> Verdict:
    entry, task = row[variant], row["task"]
    relevant = [f for f in entry["findings"] if f["severity"] != "info"]
    accepted = case.accepted if faulty else frozenset()
    component = case.component if faulty else ""
    first = relevant[:2]
    located = any(f["problem"] in accepted or names_component(f, component) for f in first) if component else None
    return Verdict(
        case=f"{case.id}+fix" if variant == "fixed" else case.id,
        source=case.source,
        faulty=faulty,
        score=entry["score"],
        errors=_problems(relevant, "error"),
        raised=tuple(dict.fromkeys(f["problem"] for f in entry["raised"] if f["severity"] == "error")),
        warnings=_problems(relevant, "warning"),
        rank=_rank([f["problem"] for f in relevant], accepted),
        accepted=accepted,
        first_error=entry["first_error"],
        steps=entry["steps"],
        seed=task["seed"],
        framework=task["framework"],
        family=case.family,
        component=component,
        located=located,
        costly=faulty and is_costly(case, _original_score(row), _fixed_score(row)),
        roots=tuple((f["problem"], f["confidence"]) for f in relevant if f["caused_by"] is None),
    )


def _rank(problems: Sequence[str], accepted: frozenset[str]) -> int | None:
    return next((i for i, problem in enumerate(problems, 1) if problem in accepted), None)


def _problems(findings: Iterable[Row], severity: str) -> tuple[str, ...]:
    return tuple(f["problem"] for f in findings if f["severity"] == severity)
