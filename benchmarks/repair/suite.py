"""``python -m benchmarks repair``: does `autotrainer.fit` repair faulty trainings, at what cost, beside what else?"""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.errors import ConfigError
from benchmarks.cases.case import Case
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import told
from benchmarks.execution.runs import Runs, by_framework, each_task
from benchmarks.repair.outcomes import Outcome, outcomes
from benchmarks.repair.run import METHODS
from benchmarks.repair.tables import by_method, each_case, gains
from benchmarks.reporting.goals import repair_goals
from benchmarks.reporting.published import published
from benchmarks.reporting.tables import listed

__all__ = ["QUICK", "repair", "report", "summarize"]

QUICK = ("so47241622", "so51749207", "so39525358", "so50306988")

_SECONDS = 60
"""Allowed for one training and its share of the rest."""


def repair(runs: Runs, budgets: Sequence[float], methods: Sequence[str] = ()) -> str:
    """Run the benchmark on all cases that have a known fix and no fault in a loop of their own.

    Args:
        runs: What to run.
        budgets: Work that a repair may do, in trainings as given; each is a repair of its own.
        methods: Of `METHODS`; empty for all.

    Returns:
        The summary, Markdown.

    Raises:
        ConfigError: If a method is unknown or there is no budget.
    """
    methods = methods or METHODS
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"unknown method {method!r}: choose from {', '.join(METHODS)}")
    if not budgets or min(budgets) < 1:
        raise ConfigError("a budget is at least 1, the training as given")

    def tasks(cases: Sequence[Case], framework: str) -> list[Task]:
        fixable = [case for case in cases if case.fixed is not None and case.given.managed(framework)]
        asked = {"budgets": list(budgets), "methods": list(methods)}
        return [{**task, **asked} for _, task in each_task(fixable, framework, runs.seeds)]

    trainings = 3 + sum(budgets) + 2 * max(budgets) + 2
    return report(runs.rows("benchmarks.repair.run", tasks, timeout=max(900, _SECONDS * trainings)))


def report(rows: Sequence[Row]) -> str:
    """Return the tables of all rows and what others published, as Markdown."""
    parts = [summarize(of, framework) for framework, of in by_framework(rows).items()]
    return "\n\n".join([*parts, published("repair")])


def summarize(rows: Sequence[Row], framework: str) -> str:
    """Return the tables of one framework's rows as Markdown.

    Cases whose fix costs more than the budget less 0.2 are told apart: no repair within the budget can be known.
    """
    found, left_out = outcomes(rows, framework)
    parts = [f"### {framework}", told(rows)]
    for budget in sorted({outcome.budget for outcome in found}):
        of = [outcome for outcome in found if outcome.budget == budget]
        parts += [f"#### budget {budget:g}", repair_goals(of), by_method(of), gains(of), _trouble(of), each_case(of)]
    parts.append("\n".join(listed("Left out", left_out)).strip())
    return "\n\n".join(part for part in parts if part)


def _trouble(found: Sequence[Outcome]) -> str:
    """Return by name what `fit` made worse, and what crashed, which counts as not repaired."""
    worse = [
        f"{o.case} (seed {o.seed}): {o.given:.3f} → {o.repaired:.3f}" for o in found if o.worse and o.method == "fit"
    ]
    crashed = [f"{o.case} (seed {o.seed}), {o.method}: {o.error}" for o in found if o.error]
    return "\n".join([*listed("Got worse with fit", worse), *listed("Crashed", crashed)]).strip()
