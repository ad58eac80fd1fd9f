"""Proposes a repair plan: that of a managed training, or from the findings of a recorded run."""

from __future__ import annotations

from pathlib import Path

from autotrainer import registry
from autotrainer.adapter.spec import Support, SupportLevel
from autotrainer.api.replay import read_run
from autotrainer.edits import Edit
from autotrainer.errors import ConfigError
from autotrainer.monitoring.engine import Engine
from autotrainer.records.task import TaskContext
from autotrainer.reporting.plan import RepairPlan, load_plan
from autotrainer.search.experience import Experience
from autotrainer.search.planner import Planner

__all__ = ["propose"]


def propose(file: Path, problem: str | None = None) -> tuple[RepairPlan | None, TaskContext | None]:
    """Return what to change in the user's code.

    Args:
        file: ``plan.json`` of a managed training, whose repair has proven itself there; or a run log, whose findings
            suggest one that nobody has tried yet.
        problem: Name, code or alias of the problem to repair; None for what the planner would try first. For run logs.

    Returns:
        The plan, None if nothing suggests one; and what is known of the training that it is for, None if nothing is.

    Raises:
        ConfigError: If the plan or the name of the problem is invalid, or the run has no such problem.
        LogError: If the log can't be read.
    """
    if file.suffix == ".json":
        if problem is not None:
            raise ConfigError("a saved plan is proposed as a whole: leave out the problem")
        return load_plan(file), None
    engine = Engine(registry.make_rules())
    run = read_run(file, engine)
    history, context = run.history, run.context
    if not history.finished:
        engine.evaluate(history, context)
    findings = engine.findings
    if problem is not None:
        name = registry.problem_name(problem)
        findings = [finding for finding in findings if finding.problem == name]
        if not findings:
            found = ", ".join(finding.problem for finding in engine.findings) or "none"
            raise ConfigError(f"this run has no {name}; its findings: {found}")
    planner = Planner(registry.repairs(), _supported, experience=Experience.installed())
    steps = planner.steps(findings, context, history.targets)
    if not steps:
        return None, context
    proven, root = planner.proven(findings, context, history.targets), steps[0].problems[0]
    step = proven if proven is not None and root in proven.problems else steps[0]
    layers = tuple(layer.name for layer in context.layers)
    known = {finding.problem: finding.place for finding in run.located(engine.findings) if finding.place}
    return RepairPlan(step.repairs, step.edits, step.problems, context.framework, layers, places=known), context


def _supported(_: Edit) -> Support:
    """Return that a change is possible: whether the model allows it shows only where it is."""
    return Support(SupportLevel.REBUILD)
