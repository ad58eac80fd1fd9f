"""Runs the demo: finds and repairs each case, and shows that its healthy twin has no findings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from autotrainer.api.fit import fit
from autotrainer.demo.cases import CASES, Case
from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.result import Result
from autotrainer.reporting.terminal import import_quietly, print_table
from autotrainer.reporting.text import number

__all__ = ["FRAMEWORKS", "CaseOutcome", "run_demo"]

FRAMEWORKS = {"pytorch": "torch", "keras3": "keras"}
"""The package that each backend needs, by the name of the backend."""


@dataclass(frozen=True, slots=True)
class CaseOutcome:
    """The outcome of one case in one framework."""

    framework: str
    case: Case
    result: Result
    twin_findings: tuple[Finding, ...]

    @property
    def finding(self) -> Finding | None:
        """The finding of the case's problem, or None if it was not found."""
        return next((f for f in self.result.findings if f.problem == self.case.problem), None)

    @property
    def quiet(self) -> bool:
        """Whether the twin has neither an error nor a warning."""
        return all(f.severity is Severity.INFO for f in self.twin_findings)

    @property
    def passed(self) -> bool:
        """Whether the problem was found, the training was repaired, and the twin is quiet."""
        return self.finding is not None and self.result.status == "repaired" and self.quiet


def run_demo(framework: str | None = None) -> int:
    """Run all cases and print findings, repairs and a table.

    Args:
        framework: ``pytorch`` or ``keras3``; None for all that are installed.

    Returns:
        0 if all cases have passed, else 1.

    Raises:
        ConfigError: If the framework is not installed.
    """
    installed = [name for name, module in FRAMEWORKS.items() if find_spec(module) is not None]
    chosen = installed if framework is None else [framework]
    if not chosen or not set(chosen) <= set(installed):
        extra = "torch" if framework == "pytorch" else "keras" if framework == "keras3" else "all"
        raise ConfigError(f"{framework or 'no framework'} is not installed: pip install 'autotrainer-monitor[{extra}]'")
    for name in chosen:
        import_quietly(FRAMEWORKS[name])
    started = perf_counter()
    jobs = [(name, case) for name in chosen for case in CASES]
    outcomes = []
    for place, (name, case) in enumerate(jobs, 1):
        print(f"[{place}/{len(jobs)}] {name}: {case.description}", flush=True)
        outcomes.append(_run_case(name, case))
    _print_table(outcomes)
    passed = sum(outcome.passed for outcome in outcomes)
    seconds = perf_counter() - started
    print(f"\n{passed} of {len(outcomes)} found and repaired with a quiet twin, in {seconds:.0f} s")
    return 0 if passed == len(outcomes) else 1


def _run_case(framework: str, case: Case) -> CaseOutcome:
    module = import_module(f"autotrainer.demo.{framework}")
    arguments: dict[str, Any] = module.fit_arguments(case.faulty)
    result = fit(arguments.pop("model"), arguments.pop("train_data"), **arguments)
    monitor, accuracy = module.train_watched(case.twin)
    outcome = CaseOutcome(framework, case, result, tuple(monitor.findings))
    finding = outcome.finding
    if finding is None:
        print(f"  {case.problem} was not found; findings: {', '.join(f.problem for f in result.findings) or 'none'}")
    else:
        print(f"  found in epoch {finding.epoch}, step {finding.step}: {finding}")
        print(f"    evidence: {', '.join(f'{k} = {number(v)}' for k, v in finding.evidence.items())}")
    print(f"  {result.status}: test accuracy {_share(result.baseline_test_score)} → {_share(result.test_score)}")
    if result.plan is not None:
        print("\n".join(f"    {line}" for line in str(result.plan).splitlines()))
    quiet = "quiet" if outcome.quiet else f"not quiet: {'; '.join(str(f) for f in outcome.twin_findings)}"
    print(f"  healthy twin: test accuracy {_share(accuracy)}, {quiet}\n", flush=True)
    return outcome


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _print_table(outcomes: list[CaseOutcome]) -> None:
    columns = ("framework", "problem", "found at", "before", "after", "cost", "repair", "twin")
    rows = []
    for outcome in outcomes:
        finding, result = outcome.finding, outcome.result
        rows.append(
            (
                outcome.framework,
                outcome.case.problem,
                "–" if finding is None else f"epoch {finding.epoch}",
                _share(result.baseline_test_score),
                _share(result.test_score),
                f"{result.cost:.1f}×",
                result.status if result.plan is None else " + ".join(result.plan.repairs),
                "quiet" if outcome.quiet else "not quiet",
            )
        )
    print("Accuracy on test data, before and after; cost in trainings of the original model:", file=sys.stdout)
    print_table(columns, rows)
