"""What is proven wrong before a training begins: mended at once where that can be done, and costs no training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autotrainer.adapter.backend import Backend, Trainer
from autotrainer.adapter.spec import FitRequest
from autotrainer.edits import NumberClasses
from autotrainer.errors import InputError
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import LAYER_COLUMNS, Observation
from autotrainer.records.task import TargetSummary
from autotrainer.rule import Rule
from autotrainer.search.planner import Planner, Step

__all__ = ["Preflight", "mend"]

_BATCHES = 4
_REFUSING = frozenset({"target_mismatch", "improper_loss"})
"""Problems for which a loss can't be computed at all."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """A training that can't be run as given, and what makes it one that can.

    Attributes:
        step: The edits that mend it.
        findings: What proves it wrong.
        wrong: The error that says so where the framework's own is hard to read, or None.
    """

    step: Step
    findings: tuple[Finding, ...]
    wrong: InputError | None = None


def mend(
    backend: Backend,
    trainer: Trainer,
    request: FitRequest,
    rules: Sequence[Rule],
    planner: Planner,
    wrong: InputError | None,
) -> Preflight | None:
    """Look for what proves that a training can't be run as given, and for what mends it.

    Args:
        backend: The framework.
        trainer: Prepared for the training as given.
        request: The training as given.
        rules: The rules in force.
        planner: Makes steps from findings.
        wrong: What is known to be wrong, or None.

    Returns:
        The repair; None where nothing is proven, or nothing mends it.
    """
    model = request.model if backend.accepts(request.model) else request.model()
    try:
        probed, observations = backend.probe(model, request.train, request.loss, None, _BATCHES)
    except InputError:  # the training as given says it in its own words
        return None
    refusal = trainer.context.loss_refusal and probed.loss_refusal
    context = replace(trainer.context, output_rank=probed.output_rank, loss_refusal=refusal, arrays=probed.arrays)
    history, data = RunHistory(probed.layers), DataSummary()
    for seen in (*observations, *_all_targets(request, len(observations), len(probed.layers))):
        history.add_step(summarize(seen, 0, data, context), seen.losses, data.targets)
    found = Engine([rule for rule in rules if rule.static]).evaluate(history, context)
    errors = tuple(replace(f, step=0) for f in found if f.severity is Severity.ERROR)
    step = planner.proven(errors, context, data.targets)
    if step is None or _REFUSING.isdisjoint(step.problems) or not _answers(step, request, data.targets):
        return None
    return Preflight(step, errors, wrong)


def _all_targets(request: FitRequest, step: int, layers: int) -> list[Observation]:
    """Return an observation of the targets of all rows, where they are in memory."""
    if not isinstance(request.train, ArrayData):
        return []
    table = np.full((layers, len(LAYER_COLUMNS)), np.nan)
    return [Observation(step=step, layers=table, targets=request.train.targets)]


def _answers(step: Step, request: FitRequest, targets: TargetSummary) -> bool:
    """Say whether classes that validation data have are those of the training data, where labels are numbered anew."""
    numbered = any(isinstance(edit, NumberClasses) for edit in step.edits)
    if not numbered or not isinstance(request.validation, ArrayData):
        return True
    return set(np.unique(request.validation.targets).tolist()) <= _values(request.train, targets)


def _values(train: Any, targets: TargetSummary) -> set[float]:
    return set(np.unique(train.targets).tolist()) if isinstance(train, ArrayData) else set(targets.values)
