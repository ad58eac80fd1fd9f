"""`check`: what can be known before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from autotrainer import registry
from autotrainer.config import switched_off
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory

__all__ = ["check"]

_BATCHES = 4


def check(
    model: Any,
    train_data: Any,
    *,
    loss: Any = None,
    optimizer: Any = None,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
) -> list[Finding]:
    """Look at a training before it starts: forward passes on a few batches, no step.

    Model, mode, data and every random state are as before afterwards.

    Args:
        model: ``torch.nn.Module`` or ``keras.Model``.
        train_data: ``(x, y)`` or a loader or data set of the framework.
        loss: The loss; None for a compiled Keras model.
        optimizer: The optimizer, if it is to be looked at too.
        select: Problems to look for; None for all.
        ignore: Problems to leave out.
        thresholds: Values by ``problem.name`` or by the papers' names.

    Returns:
        Findings, ranked; all of step 0, since none was taken.

    Raises:
        InputError: If the model is of no known framework, or data and model do not fit.
    """
    rules = [rule for rule in registry.make_rules(select, ignore, thresholds) if rule.static]
    backend = registry.backend_of(model)
    if switched_off():
        return []
    context, observations = backend.probe(model, train_data, loss, optimizer, _BATCHES)
    history, data = RunHistory(context.layers), DataSummary()
    for seen in observations:
        stats = summarize(seen, 0, data, context)
        history.add_step(stats, seen.losses, data.targets)
    return [replace(finding, step=0) for finding in Engine(rules).evaluate(history, context)]
