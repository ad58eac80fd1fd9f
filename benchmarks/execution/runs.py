"""Shared by the suites that run cases: one task for each case and seed, rows by framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Case, load_cases
from benchmarks.data.files import FILES, data_folder, find
from benchmarks.execution.pool import Row, Task, run_all

__all__ = ["Runs", "by_framework", "case_of", "each_task"]


@dataclass(frozen=True, slots=True)
class Runs:
    """Which cases a benchmark runs, and how.

    Attributes:
        frameworks: ``pytorch``, ``keras3``.
        sources: Sources of cases, as in `load_cases`.
        seeds: Number of seeds per case: 0, 1, ….
        names: Cases to run; empty for all.
        out: File of rows, or None.
        workers: Processes at a time.
        retry: Whether tasks that crashed are run again.
    """

    frameworks: Sequence[str]
    sources: Sequence[str]
    seeds: int = 1
    names: Sequence[str] = ()
    out: Path | None = None
    workers: int = 2
    retry: bool = False

    def rows(
        self, module: str, tasks: Callable[[Sequence[Case], str], Sequence[Task]], *, timeout: float = 900
    ) -> list[Row]:
        """Run a benchmark in all frameworks, one after the other, and return its rows.

        Args:
            module: Module that runs one task, as in `run_all`.
            tasks: Returns the tasks of these cases in one framework.
            timeout: Seconds allowed for one task.

        Raises:
            ConfigError: If a source or a case is unknown, or no case exists in these frameworks.
            DataError: If data that a case needs are not available on this machine.
        """
        cases = load_cases(self.sources, self.names)
        for spec in (case.original.dataset for case in cases):
            if "arrays" in spec:
                data_folder()
            elif spec.get("generator") in FILES:
                find(spec["generator"])
        pending = [task for framework in self.frameworks for task in tasks(cases, framework)]
        if not pending:
            requested = ", ".join(self.names or self.sources) or "no source"
            raise ConfigError(f"nothing to run: no case of {requested} exists in {' or '.join(self.frameworks)}")
        return run_all(module, pending, self.out, workers=self.workers, timeout=timeout, retry=self.retry)


def by_framework(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by the framework of their task, in the order of their first row."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(row["task"]["framework"], []).append(row)
    return grouped


def each_task(cases: Sequence[Case], framework: str, seeds: int) -> Iterator[tuple[Case, Task]]:
    """Yield each case that exists in the framework, and for each seed the common part of its task.

    The recipe is part of the task, so that a changed case is trained again.
    """
    for case in cases:
        if framework in case.frameworks:
            common = {"framework": framework, "source": case.source, "case": case.id, "recipe": case.recipe}
            for seed in range(seeds):
                yield case, {**common, "seed": seed}


def case_of(task: Task) -> Case:
    """Return the case of a task."""
    (case,) = load_cases([task["source"]], [task["case"]])
    return case
