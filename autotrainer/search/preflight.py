"""Preflight: finds what keeps a training from running at all, and the edits that fix it, at the cost of no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.spec import FitRequest
from autotrainer.adapter.trainer import Trainer
from autotrainer.edits import NumberClasses, ResizeOutputLayer
from autotrainer.errors import InputError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.data import ArrayData, StreamData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, Observation
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Rule
from autotrainer.search.planner import Planner, Step

__all__ = ["PreflightFix", "preflight", "untrained"]

_BATCHES = 4
_BLOCKING = frozenset({"target_mismatch", "improper_loss"})
"""Problems with which a loss can't be computed at all."""


@dataclass(frozen=True, slots=True)
class PreflightFix:
    """Edits that make a training run which can't run without them.

    Attributes:
        step: The edits.
        findings: Errors that prove that they are needed.
        error: An error that is easier to understand than the framework's own, or None.
    """

    step: Step
    findings: tuple[Finding, ...]
    error: InputError | None = None

    def with_other(self, other: PreflightFix | None) -> PreflightFix:
        """Return this fix together with another one of the same training, if there is one."""
        if other is None:
            return self
        repairs = tuple(dict.fromkeys((*self.step.repairs, *other.step.repairs)))
        problems = tuple(dict.fromkeys((*self.step.problems, *other.step.problems)))
        repair_of = {**other.step.repair_of, **self.step.repair_of}
        step = Step(repairs, problems, tuple(repair_of), tuple(repair_of.values()))
        return PreflightFix(step, (*self.findings, *other.findings), self.error or other.error)


def preflight(
    backend: Backend,
    trainer: Trainer,
    request: FitRequest,
    rules: Sequence[Rule],
    planner: Planner,
    error: InputError | None,
    *,
    every_target: bool = False,
) -> PreflightFix | None:
    """Check a training with forward passes only, and look for a fix if it can't run.

    Args:
        backend: The framework.
        trainer: Prepared for the original training.
        request: The request to `fit`.
        rules: The rules in force.
        planner: Makes steps from findings.
        error: An error in the request, or None.
        every_target: Whether to read all targets of a stream, too; those of arrays are always read.

    Returns:
        The fix; None if nothing is proven, or nothing fixes it.
    """
    model = request.model if backend.accepts(request.model) else request.model()
    try:
        probed, observations = backend.probe(model, request.train, request.loss, None, _BATCHES)
    except InputError:  # the original training raises it
        return None
    refusal = trainer.context.loss_refusal and probed.loss_refusal
    context = replace(trainer.context, output_rank=probed.output_rank, loss_refusal=refusal, arrays=probed.arrays)
    history, data = RunHistory(probed.layers), DataSummary()
    for observation in observations:
        history.add_step(summarize(observation, 0, data, context), observation.losses, data.targets)
    rest = request.train.targets if isinstance(request.train, ArrayData) else None
    if isinstance(request.train, StreamData) and every_target:
        trainer.read_targets(request.train, data.add_targets)
    if rest is not None or every_target:
        table = np.full((len(probed.layers), len(LAYER_COLUMNS)), np.nan)
        observation = Observation(step=len(observations), layers=table, targets=rest)
        history.add_step(summarize(observation, 0, data, context), observation.losses, data.targets)
    findings = Engine([rule for rule in rules if rule.static]).evaluate(history, context)
    errors = tuple(replace(f, step=0) for f in findings if f.severity is Severity.ERROR)
    step = planner.proven(errors, context, data.targets)
    if step is None or _BLOCKING.isdisjoint(step.problems) or not _covers_validation(step, request, data.targets):
        return None
    return PreflightFix(step, errors, error)


def untrained(trainer: Trainer, rules: Sequence[Rule], planner: Planner) -> PreflightFix | None:
    """Return the fix of a training in which no step could change the model; None if any does, or no repair may help.

    Every parameter is frozen, or the optimizer has none of them.
    """
    rule = next((rule for rule in rules if rule.problem == "parameters_not_optimized"), None)
    context = trainer.context
    if rule is None or not (context.all_frozen or context.none_owned):
        return None
    if context.all_frozen:
        names = tuple(layer.name for layer in context.layers if layer.frozen)
        message = "All parameters of the model are frozen, so that it can't be trained."
    else:
        names = tuple(layer.name for layer in context.layers if layer.unowned)
        message = (
            "The optimizer has none of the model's parameters, so that no step changes the model: build it over "
            "model.parameters() of this model."
        )
    finding = replace(rule.finding(Severity.ERROR, 1.0, message, {"layers": float(len(names))}, layers=names), step=0)
    step = planner.proven((finding,), context, TargetSummary())
    return None if step is None else PreflightFix(step, (finding,))


def _covers_validation(step: Step, request: FitRequest, targets: TargetSummary) -> bool:
    """Return whether the validation data have no other classes, if a step numbers them or makes a unit for each."""
    renumbers = any(isinstance(edit, NumberClasses | ResizeOutputLayer) for edit in step.edits)
    renumbers &= not targets.one_hot and targets.integral
    if not renumbers or not isinstance(request.validation, ArrayData):
        return True
    return set(np.unique(request.validation.targets).tolist()) <= _labels(request.train, targets)


def _labels(train: Any, targets: TargetSummary) -> set[float]:
    return set(np.unique(train.targets).tolist()) if isinstance(train, ArrayData) else set(targets.values)
