"""``python -m benchmarks scripts``: is ``autotrainer run`` right about unmodified programs?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.execution.pool import Row, Task, run_all
from benchmarks.execution.provenance import provenance_line
from benchmarks.reporting.tables import interval_share, listed, table
from benchmarks.scripts.variants import Variant, select

__all__ = ["QUICK", "report", "scripts", "tasks"]

QUICK = ("digits_notebook", "moons_full_batch", "gan_ring", "two_models", "keras_sequential:slow")


def tasks(names: Sequence[str], frameworks: Sequence[str]) -> list[Task]:
    """Return one task for each variant."""
    return [
        {
            "script": variant.program,
            "case": variant.id,
            "arguments": list(variant.arguments),
            "environment": dict(variant.environment),
        }
        for variant in select(names, frameworks)
    ]


def scripts(
    names: Sequence[str], frameworks: Sequence[str], *, out: Path | None, workers: int = 2, retry: bool = False
) -> str:
    """Run the benchmark and return its tables, Markdown.

    Args:
        names: Programs or variants; empty for all.
        frameworks: ``pytorch``, ``keras3``.
        out: File of rows, or None.
        workers: Processes at a time.
        retry: Whether programs that crashed are run again.

    Raises:
        ConfigError: If there is no such program.
    """
    pending = tasks(names, frameworks)
    if not pending:
        raise ConfigError(f"nothing to run: none of {', '.join(names)} is a program of {' or '.join(frameworks)}")
    return report(run_all("benchmarks.scripts.run", pending, out, workers=workers, retry=retry))


def report(rows: Sequence[Row]) -> str:
    """Return the tables of rows as Markdown."""
    judged = [(variant, row) for row in rows for variant in select([row["task"]["case"]])]
    finished = [(variant, row) for variant, row in judged if "error" not in row]
    faulty = [(variant, row) for variant, row in finished if variant.causes]
    healthy = [(variant, row) for variant, row in finished if not variant.causes]
    watched = [(variant, row) for variant, row in finished if row["trainings"]]
    counted = [(variant, row) for variant, row in watched if variant.epochs is not None]

    def line(name: str, chosen: Sequence[tuple[Variant, Row]], right: Sequence[bool]) -> list[str]:
        return [name, interval_share(sum(right), len(chosen), len({variant.program for variant, _ in chosen}))]

    summary = [
        line("faulty: status 1", faulty, [row["status"] == 1 for _, row in faulty]),
        line("faulty: cause first", faulty, [_rank(variant, row) == 1 for variant, row in faulty]),
        line("faulty: cause first or second", faulty, [_rank(variant, row) in (1, 2) for variant, row in faulty]),
        line("healthy: status 0", healthy, [row["status"] == 0 for _, row in healthy]),
        line("healthy: no warning", healthy, [not _of(row, "warning", "error") for _, row in healthy]),
        line("trainings", finished, [len(row["trainings"]) == variant.trainings for variant, row in finished]),
        line("first step sampled", watched, [row["trainings"][0]["first"] == 0 for _, row in watched]),
        line("epochs counted", counted, [row["trainings"][0]["epochs"] == v.epochs for v, row in counted]),
    ]
    crashed = [f"{variant.id}: {row['error']}" for variant, row in judged if "error" in row]
    head = ["program", "status", "findings", "cause", "trainings", "epochs", "steps", "sampled", "first step"]
    parts = [
        provenance_line(rows),
        table(["", "programs"], summary),
        table(head, [_line(variant, row) for variant, row in finished]),
        "\n".join(listed("Crashed", crashed)),
    ]
    return "\n\n".join(part for part in parts if part)


def _of(row: Row, *severities: str) -> list[Row]:
    return [f for training in row["trainings"] for f in training["findings"] if f["severity"] in severities]


def _rank(variant: Variant, row: Row) -> int | None:
    """Return the rank of the first finding that names the fault, from 1, in the training where it is best."""
    ranks = [
        rank
        for training in row["trainings"]
        for rank, finding in enumerate((f for f in training["findings"] if f["severity"] != "info"), start=1)
        if finding["problem"] in variant.causes
    ]
    return min(ranks, default=None)


def _line(variant: Variant, row: Row) -> list[str]:
    marks = {"error": "", "warning": " (w)"}
    problems = [f"{f['problem']}{marks[f['severity']]}" for f in _of(row, "error", "warning")]
    trainings = row["trainings"]
    expected = 1 if variant.causes else 0

    def of_each(key: str) -> str:
        return ", ".join(str(training[key]) for training in trainings) or "–"

    return [
        variant.id,
        f"{row['status']}" + ("" if row["status"] == expected else f" ≠ {expected}"),
        ", ".join(problems) or "none",
        "–" if not variant.causes else str(_rank(variant, row) or "no"),
        f"{len(trainings)}" + ("" if len(trainings) == variant.trainings else f" ≠ {variant.trainings}"),
        of_each("epochs") + ("" if variant.epochs is None else f" of {variant.epochs}"),
        of_each("steps"),
        of_each("sampled"),
        of_each("first"),
    ]
