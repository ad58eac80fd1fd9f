"""`watch`: attach a monitor to a training that the user runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from autotrainer import registry
from autotrainer.config import switched_off
from autotrainer.errors import ConfigError
from autotrainer.monitoring.monitor import Monitor, watched_models
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.findings import Finding

__all__ = ["watch"]


def watch(
    model: Any,
    optimizer: Any = None,
    *,
    loss_fn: Any = None,
    epochs: int | None = None,
    steps: int | None = None,
    overhead: float = 0.01,
    select: str | Iterable[str] | None = None,
    ignore: str | Iterable[str] = (),
    thresholds: Mapping[str, float] | None = None,
    log_dir: str | Path | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Monitor:
    """Watch a training without changing it.

    Args:
        model: ``torch.nn.Module`` or ``keras.Model``.
        optimizer: PyTorch: the optimizer, or several; Keras knows its own.
        loss_fn: PyTorch: the loss. A module is seen through its own calls; for a function, call `Monitor.log`.
        epochs: Planned epochs, where the loop can't tell.
        steps: Planned steps, where the loop can't tell.
        overhead: Share of the training time that monitoring may cost, in (0, 1].
        select: Problems to look for (names, codes, code prefixes); None for all.
        ignore: Problems to leave out.
        thresholds: Values by ``problem.name`` or by the papers' names.
        log_dir: Folder for the run log; None writes no file.
        on_finding: Called with each new finding.

    Returns:
        The monitor: a context manager, or to be closed with `Monitor.close`. Watching a model twice closes the
        first monitor.

    Raises:
        InputError: If model, optimizer and loss do not belong together, or a name or value is wrong.
    """
    rules = registry.make_rules(select, ignore, thresholds)
    sampler = Sampler(overhead)
    for name, planned in (("epochs", epochs), ("steps", steps)):
        whole = isinstance(planned, int | np.integer) and not isinstance(planned, bool)
        if planned is not None and not (whole and planned >= 1):
            raise ConfigError(f"{name} must be a whole number >= 1 or None, not {planned!r}")
    backend = registry.backend_of(model)
    if switched_off():
        inert = Monitor([], sampler, quiet=True)
        inert.closed = True
        return inert
    replaced = watched_models.pop(model, None)
    if replaced is not None:
        replaced.close()
    monitor = Monitor(rules, sampler, log_dir=log_dir, on_finding=on_finding)
    epochs, steps = (None if planned is None else int(planned) for planned in (epochs, steps))
    try:
        monitor.attach(backend.observe(model, optimizer, loss_fn, monitor, epochs=epochs, steps=steps))
    except BaseException:
        monitor.close()
        raise
    watched_models[model] = monitor
    return monitor
