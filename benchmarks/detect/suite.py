"""``python -m benchmarks detect``: does watching detect faulty trainings early and name their cause?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.cases.case import Case, Program
from benchmarks.detect.components import by_component
from benchmarks.detect.confidence import reliability
from benchmarks.detect.tables import by_family, by_problem, by_source, details
from benchmarks.detect.verdicts import LATE, Verdict, judge, judge_all
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.generator.transformers.names import FAMILY as TRANSFORMERS
from benchmarks.reporting.goals import detect_goals
from benchmarks.reporting.parity import parity
from benchmarks.reporting.published import published

__all__ = ["LATE", "QUICK", "Verdict", "detect", "judge", "report", "summarize", "tasks"]

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


def tasks(cases: Sequence[Case], framework: str, seeds: int, overhead: float = 0.01) -> list[Task]:
    """Return one task for each case and seed.

    A fix shared by several cases is trained once per seed, except where a case is judged by the score of its fix.
    Transformers are watched with ``probe=True``.
    """
    task_list: list[Task] = []
    fixes: list[tuple[Program, int]] = []
    for case, task in each_task(cases, framework, seeds):
        variants = ["given"]
        if case.fixed is not None and (case.ceiling is None or (case.fixed, task["seed"]) not in fixes):
            fixes.append((case.fixed, task["seed"]))
            variants.append("fixed")
        probe = {"probe": True} if case.source == TRANSFORMERS else {}
        task_list.append({**task, "variants": variants, "overhead": overhead, **probe})
    return task_list


def summarize(rows: Iterable[Row], framework: str) -> str:
    """Return the tables of one framework's rows as Markdown."""
    all_rows = list(rows)
    verdicts, left_out = judge_all(all_rows, framework)
    complaints = {
        message
        for row in all_rows
        for variant in row["task"]["variants"]
        for message in row.get(variant, {}).get("complaints", ())
    }
    parts = [
        f"### {framework}",
        provenance_line(all_rows),
        detect_goals(verdicts),
        by_source(verdicts),
        by_family(verdicts),
        by_component(verdicts),
        by_problem(verdicts),
    ]
    parts += [reliability(verdicts), details(verdicts, left_out, sorted(complaints))]
    return "\n\n".join(part for part in parts if part)


def report(rows: Sequence[Row]) -> str:
    """Return the tables of all rows, the agreement of the frameworks, and published figures, as Markdown."""
    grouped = by_framework(rows)
    parts = [summarize(of_framework, name) for name, of_framework in grouped.items()]
    if len(grouped) > 1:
        parts.append(parity([v for name, of_framework in grouped.items() for v in judge_all(of_framework, name)[0]]))
    return "\n\n".join([*parts, published("detect")])


def detect(runs: Runs, overhead: float = 0.01) -> str:
    """Run the benchmark.

    Args:
        runs: What to run.
        overhead: Share of the time that `watch` may cost.

    Returns:
        The summary, Markdown.
    """

    def make_tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        return tasks(cases, framework, runs.seeds, overhead)

    return report(runs.rows("benchmarks.detect.run", make_tasks))
