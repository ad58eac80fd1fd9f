"""``python -m benchmarks repair``: does `autotrainer.fit` repair faulty trainings, and at what cost?"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Case
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.repair.alternatives import SAMPLERS
from benchmarks.repair.outcomes import Outcome, outcomes
from benchmarks.repair.run import METHODS, UNTIL
from benchmarks.repair.tables import by_method, each_case, gains
from benchmarks.reporting.goals import repair_goals
from benchmarks.reporting.published import published
from benchmarks.reporting.tables import listed

__all__ = ["QUICK", "repair", "report", "summarize"]

QUICK = ("so47241622", "so51749207", "so39525358", "so50306988")

_SECONDS = 60
"""Seconds allowed for one training with its share of the rest."""


def repair(runs: Runs, budgets: Sequence[float], methods: Sequence[str] = ()) -> str:
    """Run the benchmark on all cases with a known fix whose fault is not in a custom loop.

    Args:
        runs: What to run.
        budgets: Work that a repair may do, in original trainings; each budget is a separate repair.
        methods: Names of `METHODS`; empty for all with the default of ``until``.

    Returns:
        The summary, Markdown.

    Raises:
        ConfigError: If a method is unknown or lacks its library, or there is no budget.
    """
    methods = methods or [method for method in METHODS if UNTIL.get(method) != "budget"]
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    missing = [name for name in ("optuna", "cmaes") if find_spec(name) is None]
    if missing and not set(SAMPLERS).isdisjoint(methods):
        raise ConfigError(
            f"{' and '.join(missing)} missing, which the methods {', '.join(SAMPLERS)} need: "
            "pip install 'autotrainer-monitor[bench]', or choose others with --methods"
        )
    if not budgets or min(budgets) < 1:
        raise ConfigError("a budget must be at least 1, the cost of the original training")

    def tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        fixable = [case for case in cases if case.fixed is not None and case.original.managed(framework)]
        options = {"budgets": list(budgets), "methods": list(methods)}
        return [{**task, **options} for _, task in each_task(fixable, framework, runs.seeds)]

    trainings = 3 + sum(budgets) + 2 * max(budgets) + 2
    return report(runs.rows("benchmarks.repair.run", tasks, timeout=max(900, _SECONDS * trainings)))


def report(rows: Sequence[Row]) -> str:
    """Return the tables of all rows and published figures, as Markdown."""
    parts = [summarize(of_framework, name) for name, of_framework in by_framework(rows).items()]
    return "\n\n".join([*parts, published("repair")])


def summarize(rows: Sequence[Row], framework: str) -> str:
    """Return the tables of one framework's rows as Markdown.

    Cases whose fix costs more than the budget less 0.2 are shown separately: no repair within the budget is known.
    """
    results, left_out = outcomes(rows, framework)
    parts = [f"### {framework}", provenance_line(rows)]
    for budget in sorted({outcome.budget for outcome in results}):
        selected = [outcome for outcome in results if outcome.budget == budget]
        parts += [f"#### budget {budget:g}", repair_goals(selected), by_method(selected), gains(selected)]
        parts += [_problems(selected), each_case(selected)]
    parts.append("\n".join(listed("Left out", left_out)).strip())
    return "\n\n".join(part for part in parts if part)


def _problems(results: Sequence[Outcome]) -> str:
    """Return lists of the trainings that `fit` made worse, and of crashes, which count as not repaired."""
    worse = [
        f"{o.case} (seed {o.seed}): {o.original:.3f} → {o.repaired:.3f}"
        for o in results
        if o.worse and o.method in UNTIL
    ]
    crashed = [f"{o.case} (seed {o.seed}), {o.method}: {o.error}" for o in results if o.error]
    return "\n".join([*listed("Got worse with fit", worse), *listed("Crashed", crashed)]).strip()
