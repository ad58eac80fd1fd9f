"""What ``detect`` and ``repair`` share: one task for each case and seed, one summary for each framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cases import Case, load_cases
from benchmarks.pool import Row, Task, run_all

__all__ = ["Runs", "case_of", "each_task"]


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
    """

    frameworks: Sequence[str]
    sources: Sequence[str]
    seeds: int = 1
    names: Sequence[str] = ()
    out: Path | None = None
    workers: int = 2

    def summaries(
        self,
        module: str,
        tasks: Callable[[Sequence[Case], str], Sequence[Task]],
        summarize: Callable[[Sequence[Row], str], str],
        *,
        timeout: float = 900,
    ) -> str:
        """Run a benchmark and return its summaries, Markdown.

        Args:
            module: Runs one task, as `run_all` takes it.
            tasks: Returns the tasks of these cases in one framework.
            summarize: Returns the summary of the rows of one framework.
            timeout: Seconds for one task.

        Raises:
            ConfigError: If a source or a case is unknown.
        """
        cases = load_cases(self.sources, self.names)
        parts = []
        for framework in self.frameworks:
            rows = run_all(module, tasks(cases, framework), self.out, workers=self.workers, timeout=timeout)
            parts.append(summarize(rows, framework))
        return "\n\n".join(parts)


def each_task(cases: Sequence[Case], framework: str, seeds: int) -> Iterator[tuple[Case, Task]]:
    """Yield each case that the framework can have, and each seed, as the beginning of a task."""
    for case in cases:
        if framework in case.frameworks:
            for seed in range(seeds):
                yield case, {"framework": framework, "source": case.source, "case": case.id, "seed": seed}


def case_of(task: Task) -> Case:
    """Return the case of a task."""
    (case,) = load_cases([task["source"]], [task["case"]])
    return case
