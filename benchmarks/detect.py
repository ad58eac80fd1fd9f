"""``python -m benchmarks detect``: are faulty trainings found, named and found early, and healthy ones left alone?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from benchmarks.cases import Case, Program
from benchmarks.pool import Row, Task
from benchmarks.runs import Runs, case_of, each_task
from benchmarks.scoring import is_faulty, is_healthy
from benchmarks.tables import share, table

__all__ = ["QUICK", "Verdict", "detect", "judge", "summarize", "tasks"]

QUICK = (
    "so50306988",
    "so58609115",
    "so46620813",
    "so58887284",
    "sse418955",
    "so43239467",
    "so33641799",
    "so51749207",
    "so-abs-leaky",
    "demo_vanish",
)

LATE = frozenset({"too_few_epochs", "overfitting", "insufficient_capacity"})
"""Problems that need the end of a training; the delay of a case that is nothing else does not count."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one training was judged.

    Attributes:
        case: Name of the case; its fixed twin has ``+fix`` behind it.
        source: ``real`` or ``zoo``.
        faulty: Whether its score shows a fault.
        score: Test score.
        errors: Problems with an error at the end.
        raised: Problems with an error at any time.
        warnings: Problems with a warning at the end.
        named: Whether the true cause is among the first two problems at the end, infos left out; None if it is not
            known or the training is healthy.
        early: Whether the first error came before 20 % of the planned steps or within 50 steps, whichever is later;
            None if healthy or if the fault needs the end of a training.
        first_error: Step of the first error, or None.
        steps: Planned steps.
    """

    case: str
    source: str
    faulty: bool
    score: float
    errors: tuple[str, ...]
    raised: tuple[str, ...]
    warnings: tuple[str, ...]
    named: bool | None
    early: bool | None
    first_error: int | None
    steps: int


def tasks(cases: Sequence[Case], framework: str, seeds: int, overhead: float = 0.01) -> list[Task]:
    """Return one task for each case and seed.

    A recipe that fixes several cases is trained once a seed, except where a case is judged by the score of its fix.
    """
    made: list[Task] = []
    fixes: list[tuple[Program, int]] = []
    for case, task in each_task(cases, framework, seeds):
        variants = ["given"]
        if case.fixed is not None and (case.ceiling is None or (case.fixed, task["seed"]) not in fixes):
            fixes.append((case.fixed, task["seed"]))
            variants.append("fixed")
        made.append({**task, "variants": variants, "overhead": overhead})
    return made


def judge(row: Row, framework: str) -> tuple[list[Verdict], list[str]]:
    """Judge one row.

    Returns:
        A verdict for each training whose state is known from its score, and in words what was left out and why.
    """
    task = row["task"]
    case = case_of(task)
    name = f"{case.id} (seed {task['seed']})"
    if "error" in row:
        return [], [f"{name}: {row['error']}"]
    given, fixed = row["given"], row.get("fixed")
    fixed_score = fixed["score"] if fixed else math.nan
    verdicts, left_out = [], []
    if is_faulty(case, given["score"], fixed_score):
        verdicts.append(_verdict(case, given, faulty=True))
    elif case.ceiling is not None and is_healthy(case, given["score"], framework):
        verdicts.append(_verdict(case, given, faulty=False))
    else:
        left_out.append(
            f"{name}: scores {given['score']:.3f} as given, {fixed_score:.3f} fixed: neither faulty nor healthy"
        )
    if fixed:
        if is_healthy(case, fixed_score, framework):
            verdicts.append(_verdict(case, fixed, faulty=False, fixed=True))
        else:
            left_out.append(f"{name}: its fix scores {fixed_score:.3f}, not what it is known to reach")
    return verdicts, left_out


def summarize(rows: Iterable[Row], framework: str) -> str:
    """Return the tables of a run as Markdown."""
    verdicts: list[Verdict] = []
    left_out: list[str] = []
    complaints: set[str] = set()
    for row in rows:
        judged, words = judge(row, framework)
        verdicts += judged
        left_out += words
        for variant in row["task"]["variants"]:
            complaints.update(row.get(variant, {}).get("complaints", ()))
    sources = sorted({v.source for v in verdicts})
    lines = [_line(source, [v for v in verdicts if v.source == source]) for source in sources]
    if len(sources) > 1:
        lines.append(_line("all", verdicts))
    head = [
        "cases",
        "faulty",
        "error found",
        "cause in first two",
        "early",
        "healthy",
        "error at end",
        "error ever",
        "warning",
    ]
    parts = [f"### {framework}", "", table(head, lines)]
    parts += _list("Not found", (v for v in verdicts if v.faulty and not v.errors))
    parts += _list("Cause not named", (v for v in verdicts if v.named is False and v.errors))
    parts += _list("Late", (v for v in verdicts if v.early is False and v.errors))
    parts += _list("False alarms", (v for v in verdicts if not v.faulty and (v.raised or v.warnings)))
    if left_out:
        parts += ["", "Left out:", *(f"* {words}" for words in left_out)]
    if complaints:
        parts += ["", "Parts that failed:", *(f"* {words}" for words in sorted(complaints))]
    return "\n".join(parts)


def detect(runs: Runs, overhead: float = 0.01) -> str:
    """Run the benchmark.

    Args:
        runs: What to run.
        overhead: What `watch` may cost, as a share.

    Returns:
        The summary, Markdown.
    """

    def of(cases: Sequence[Case], framework: str) -> list[Task]:
        return tasks(cases, framework, runs.seeds, overhead)

    return runs.summaries("benchmarks.detect_run", of, summarize)


def _verdict(case: Case, entry: Row, *, faulty: bool, fixed: bool = False) -> Verdict:
    telling = [f for f in entry["findings"] if f["severity"] != "info"]
    top = {f["problem"] for f in telling[:2]}
    first, steps = entry["first_error"], entry["steps"]
    late = not case.accepted - LATE
    return Verdict(
        case=f"{case.id}+fix" if fixed else case.id,
        source=case.source,
        faulty=faulty,
        score=entry["score"],
        errors=_problems(telling, "error"),
        raised=tuple(dict.fromkeys(f["problem"] for f in entry["raised"] if f["severity"] == "error")),
        warnings=_problems(telling, "warning"),
        named=bool(case.accepted & top) if faulty and case.accepted else None,
        early=None if not faulty or late else first is not None and first < max(0.2 * steps, 50),
        first_error=first,
        steps=steps,
    )


def _problems(findings: Iterable[Row], severity: str) -> tuple[str, ...]:
    return tuple(f["problem"] for f in findings if f["severity"] == severity)


def _line(name: str, verdicts: Sequence[Verdict]) -> list[str]:
    faulty = [v for v in verdicts if v.faulty]
    healthy = [v for v in verdicts if not v.faulty]

    def count(of: Sequence[Verdict], test: Callable[[Verdict], object]) -> str:
        return share(sum(bool(test(v)) for v in of), len(of))

    return [
        name,
        str(len(faulty)),
        count(faulty, lambda v: v.errors),
        count([v for v in faulty if v.named is not None], lambda v: v.named),
        count([v for v in faulty if v.early is not None], lambda v: v.early),
        str(len(healthy)),
        count(healthy, lambda v: v.errors),
        count(healthy, lambda v: v.raised),
        count(healthy, lambda v: v.warnings),
    ]


def _list(title: str, verdicts: Iterable[Verdict]) -> list[str]:
    lines = []
    for v in verdicts:
        when = "never" if v.first_error is None else f"at step {v.first_error}"
        lines.append(
            f"* {v.case}: score {v.score:.3f}; errors {', '.join(v.errors) or 'none'}; warnings "
            f"{', '.join(v.warnings) or 'none'}; first error {when} of {v.steps}"
            + (
                f"; raised and passed: {', '.join(sorted(set(v.raised) - set(v.errors)))}"
                if set(v.raised) - set(v.errors)
                else ""
            )
        )
    return ["", f"{title}:", *lines] if lines else []
