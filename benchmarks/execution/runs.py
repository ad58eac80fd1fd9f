"""What ``detect`` and ``repair`` share: one task for each case and seed, one summary for each framework."""

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
        sources: Where the cases come from, as `load_cases` takes it.
        seeds: Seeds a case: 0, 1, ….
        names: Cases to keep; empty for all.
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
            module: Runs one task, as `run_all` takes it.
            tasks: Returns the tasks of these cases in one framework.
            timeout: Seconds for one task.

        Raises:
            ConfigError: If a source or a case is unknown, or no case can be had in these frameworks.
            DataError: If data that a case needs are not on this machine.
        """
        cases = load_cases(self.sources, self.names)
        for spec in (case.given.dataset for case in cases):
            if "arrays" in spec:
                data_folder()
            elif spec.get("generator") in FILES:
                find(spec["generator"])
        wanted = [task for framework in self.frameworks for task in tasks(cases, framework)]
        if not wanted:
            asked = ", ".join(self.names or self.sources) or "no source"
            raise ConfigError(f"nothing to run: no case of {asked} can be had in {' or '.join(self.frameworks)}")
        return run_all(module, wanted, self.out, workers=self.workers, timeout=timeout, retry=self.retry)

    def summaries(
        self,
        module: str,
        tasks: Callable[[Sequence[Case], str], Sequence[Task]],
        summarize: Callable[[Sequence[Row], str], str],
        *,
        timeout: float = 900,
    ) -> str:
        """Run a benchmark and return a summary of each framework's rows, Markdown; the rest is as in `rows`."""
        found = by_framework(self.rows(module, tasks, timeout=timeout))
        return "\n\n".join(summarize(found.get(framework, ()), framework) for framework in self.frameworks)


def by_framework(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return rows by the framework of their task, in the order of their first row."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["task"]["framework"], []).append(row)
    return found


def each_task(cases: Sequence[Case], framework: str, seeds: int) -> Iterator[tuple[Case, Task]]:
    """Yield each case that the framework can have, and each seed, as the beginning of a task.

    Its recipe is part of the task: a case that was changed is trained anew.
    """
    for case in cases:
        if framework in case.frameworks:
            told = {"framework": framework, "source": case.source, "case": case.id, "recipe": case.recipe}
            for seed in range(seeds):
                yield case, {**told, "seed": seed}


def case_of(task: Task) -> Case:
    """Return the case of a task."""
    (case,) = load_cases([task["source"]], [task["case"]])
    return case
