"""Whether a run continues an earlier one, whose log lies in the same folder, and what it has kept of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from autotrainer.monitoring.logs.replica_logs import same_batches, same_model
from autotrainer.records.history import RunHistory
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext

__all__ = ["earlier_logs", "resumed_run"]

_NEARER = 0.25
"""Distance of the first weights to the last ones of the earlier run ÷ their distance to its first ones, at most."""

_MOVED = 1e-3
"""Least relative change of weight norms in the earlier run: with less, its start can't be told from its end."""

_FIRST, _LAST = 10, 30
"""Losses whose median is that of the start, and of the end of the earlier run."""

_MOST_BYTES = 20_000_000
"""Size of all logs together that are read during a training: about a second."""

_MOST_LOGS = 3
"""Latest logs of a folder that are compared with a run."""


def earlier_logs(folder: Path, own: Path, before: float) -> Iterator[Path]:
    """Yield the latest run logs of a folder that were complete before this run began, the newest first.

    Args:
        folder: The folder.
        own: The log of this run.
        before: When it began, in seconds since the epoch.
    """
    complete = []
    for path in folder.glob("run-*.jsonl"):
        with suppress(OSError):  # removed meanwhile
            stat = path.stat()
            if path != own and stat.st_mtime < before:
                complete.append((stat.st_mtime, stat.st_size, path))
    left = _MOST_BYTES
    for _, size, path in sorted(complete, reverse=True)[:_MOST_LOGS]:
        if size <= left:
            left -= size
            yield path


def resumed_run(history: RunHistory, earlier: RunHistory, context: TaskContext) -> dict[str, float]:
    """Compare a run with an earlier one.

    Args:
        history: The run, from its start.
        earlier: The earlier run.
        context: The context of the earlier run.

    Returns:
        The facts of `autotrainer.records.facts.FACTS` that begin with ``resumed``; empty if the weights do not begin
        where those of the earlier run ended.
    """
    if not (len(history.steps) and len(earlier.steps) > 1 and same_model(history, earlier)):
        return {}
    norms = [h.layer("weight_norm")[row] for h, row in ((history, 0), (earlier, 0), (earlier, -1))]
    now, start, end = norms
    with np.errstate(all="ignore"):
        moved, apart = np.abs(end - start) / end, np.abs(now - end) / end
    trained = np.isfinite(moved) & np.isfinite(apart) & (moved > 0)
    if not trained.any() or not np.median(moved[trained]) >= _MOVED:
        return {}
    if np.median(apart[trained] / moved[trained]) > _NEARER:
        return {}
    ends = earlier.epoch_ends
    last, first = _finite(earlier.losses[1])[-_LAST:], _finite(history.losses[1])[:_FIRST]
    facts = {
        "resumed_steps": float(earlier.step + 1),
        "resumed_complete": float(_is_complete(earlier, context)),
        "resumed_within_epoch": float(not len(ends) or ends[-1] < earlier.step),
        "resumed_rate": _last(earlier.scalar("learning_rate")),
        "resumed_optimizer_steps": _last(earlier.scalar("optimizer_steps")),
        "resumed_scheduler_steps": _last(earlier.scalar("scheduler_steps")),
        "resumed_same_batches": same_batches(history, earlier),
    }
    if last.size and first.size:
        middle = float(np.median(last))
        facts["resumed_loss"] = middle
        facts["resumed_loss_noise"] = 1.4826 * float(np.median(np.abs(last - middle)))
        facts["resumed_first_loss"] = float(np.median(first))
    return {name: value for name, value in facts.items() if math.isfinite(value)}


def _is_complete(history: RunHistory, context: TaskContext) -> bool:
    """Return whether a run has ended regularly, and where it was planned to."""
    short = history.epoch < (context.planned_epochs or 0) or history.step + 1 < (context.planned_steps or 0)
    return history.finished and not short


def _finite(values: Floats) -> Floats:
    kept: Floats = values[np.isfinite(values)]
    return kept


def _last(values: Floats) -> float:
    kept = _finite(values)
    return float(kept[-1]) if kept.size else math.nan
