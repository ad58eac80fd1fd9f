"""`check`: problems that can be detected before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from autotrainer import registry
from autotrainer.api.options import check_loss
from autotrainer.config import switched_off
from autotrainer.diagnostics.label_alignment import label_alignment
from autotrainer.diagnostics.probes import run_probes
from autotrainer.monitoring.engine import Engine
from autotrainer.monitoring.summary import DataSummary, summarize
from autotrainer.output import logger
from autotrainer.records.data import ArrayData, normalize
from autotrainer.records.facts import PROBE_FACTS
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.training.missing_values import missing_code_facts

__all__ = ["check"]

_BATCHES = 4
_ALIGNMENT_ROWS = 5000
"""Maximum rows of arrays whose targets are summarized for the comparison with the targets of other rows."""


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
    """Check model, data, loss and optimizer before training, by forward passes on a few batches.

    No training step is taken. Model, training mode, data and all random states are left unchanged.

    Args:
        model: ``torch.nn.Module`` or ``keras.Model``.
        train_data: ``(x, y)``, or a loader or data set of the framework.
        loss: The loss; None for a compiled Keras model.
        optimizer: The optimizer, to be checked as well; None for a compiled Keras model.
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name`` (``{"vanishing_gradient.ratio": 1e-4}``), or by the names in the
            AUTOTRAINER papers (``beta_1``).

    Returns:
        Findings, ranked; all of them at step 0.

    Raises:
        InputError: If the model belongs to no supported framework, data and model do not fit, or an option is invalid.
    """
    rules = [rule for rule in registry.make_rules(select, ignore, thresholds) if rule.static]
    check_loss("loss", loss)
    backend = registry.backend_of(model)
    if switched_off():
        return []
    context, observations = backend.probe(model, train_data, loss, optimizer, _BATCHES)
    history, data = RunHistory(context.layers), DataSummary()
    for observation in observations:
        stats = summarize(observation, 0, data, context)
        history.add_step(stats, observation.losses, data.targets)
    needs = frozenset[str]().union(*(rule.needs for rule in rules))
    if "missing_code" in needs:
        context = replace(context, asked={**context.asked, **_of_arrays(train_data, missing_code_facts)})
    if "misaligned_score" in needs:
        context = replace(context, asked={**context.asked, **_of_arrays(train_data, partial(_alignment, context))})
    if needs.intersection(PROBE_FACTS):
        probed = run_probes(lambda: backend.probed(model, train_data))
        context = replace(context, asked={**context.asked, **probed.facts}, input_fields=probed.input_fields)
    return [replace(finding, step=0) for finding in Engine(rules).evaluate(history, context)]


def _alignment(context: TaskContext, data: ArrayData) -> dict[str, float]:
    """Return whether targets seem to belong to other rows."""
    summary = DataSummary()
    summary.add_targets(data.targets[:_ALIGNMENT_ROWS])
    return label_alignment(data, summary.targets, context, seed=0)


def _of_arrays(train_data: Any, facts: Callable[[ArrayData], dict[str, float]]) -> dict[str, float]:
    """Return facts of the data, if they are arrays."""
    try:
        data = normalize(train_data, "train_data")
        return facts(data) if isinstance(data, ArrayData) else {}
    except Exception as error:  # noqa: BLE001 - all other checks are done
        logger.warning("a diagnostic of the data failed, and its facts are left out: %r", error)
        return {}
