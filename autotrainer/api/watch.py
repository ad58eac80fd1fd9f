"""`watch`: attaches a monitor to a training that the user runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotrainer import registry
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.api.integration_hints import check_integration
from autotrainer.api.options import check_loss
from autotrainer.config import is_first_process, log_folder, switched_off
from autotrainer.diagnostics.resumed_run import earlier_logs, resumed_run
from autotrainer.edits.base import Count, checked, shorten
from autotrainer.errors import ConfigError, LogError
from autotrainer.monitoring.monitor import Monitor, watched_models
from autotrainer.monitoring.run_state import read_state
from autotrainer.monitoring.sampler import Sampler
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.reporting.notebook.cell_output import CellOutput
from autotrainer.sink import Sink

if TYPE_CHECKING:
    from autotrainer.reporting.comparison import Comparison
    from autotrainer.reporting.notebook.run_display import RunDisplay

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
    baseline: str | Path | Monitor | Iterable[str | Path | Monitor] | None = None,
    probe: bool = False,
    state: Mapping[str, Any] | None = None,
    sinks: str | Sink | Iterable[str | Sink] = (),
    progress: bool = True,
) -> Monitor:
    """Watch a training run without changing it.

    ```python
    with autotrainer.watch(model, optimizer, loss_fn=loss_fn, epochs=30) as monitor:
        ...  # PyTorch: the training loop, unchanged
    with autotrainer.watch(keras_model) as monitor:
        keras_model.fit(x, y)
    print(monitor.report())
    ```

    Args:
        model: ``torch.nn.Module`` or ``keras.Model``; also what accelerate and Fabric wrap around it.
        optimizer: PyTorch: the optimizer, or a sequence of optimizers. Not needed for Keras.
        loss_fn: PyTorch: the loss. A module is observed automatically; for a function, call `Monitor.log` each step.
            Not needed for a model that returns its loss, as those of Hugging Face do when they get ``labels``.
        epochs: Planned number of epochs, >= 1. Not needed for Keras; without it, rules that depend on the schedule
            report at most a warning while the run continues.
        steps: Planned number of optimizer steps, >= 1, in place of ``epochs``.
        overhead: Share of the training time that monitoring may cost, in (0, 1].
        select: Names, codes, code prefixes (``"AT4"``) or aliases of the problems to detect; None for all.
        ignore: The same, for problems to skip.
        thresholds: Values by ``problem.name`` (``{"vanishing_gradient.ratio": 1e-4}``), or by the names in the
            AUTOTRAINER papers (``beta_1``).
        log_dir: Folder for the run log, which `autotrainer.replay` reads; None writes no file.
        on_finding: Called with each new finding, and when the severity of a finding rises.
        baseline: Run logs, or monitors, of the same training as it should be; three or more seeds show what chance
            does. The run is compared with them while it goes on: a warning is logged once it differs by more than
            chance, `Monitor.comparison` has the comparison (see `autotrainer.compare`), and the report a section. It
            changes no finding and not ``should_stop``. The logs are read before the training begins, outside the
            ``overhead``.
        probe: Run forward passes on a copy of the model once, at the start, to see whether masks, positions and modes
            have an effect and rows and inputs are kept apart. This takes about as long as twenty steps of a few rows,
            outside ``overhead``; the report says how long. Keras: for a ``fit`` on arrays.
        state: What `Monitor.state_dict` has returned in an earlier part of the run: the run goes on in that history,
            at its next step and epoch. ``epochs`` and ``steps`` are then those of the whole run.
        sinks: Get the measurements of sampled steps and the findings: names (``"tensorboard"``, ``"wandb"``,
            ``"mlflow"``, ``"trackio"``, ``"jsonl"``, ``"opentelemetry"``, or entry points of ``autotrainer.sinks``), or
            objects (see `autotrainer.sink.Sink`). Each runs on a thread of its own; one that hangs, fails or is slow
            does not delay the training, and `Monitor.close` waits for it at most 5 seconds. In a distributed training,
            names count in the first process only, which is also the only one that logs findings.
        progress: Whether a notebook shows the run below its cell, in one output that is updated at most once a second.

    Returns:
        The monitor: use it as a context manager, or call `Monitor.close` at the end. Watching a model again closes its
        previous monitor.

    Raises:
        InputError: If model, optimizer and loss do not belong together, or an option is invalid; also if a sink's
            library is missing, or it can't be used.
        PluginError: If a sink of another distribution can't be used.
        LogError: If a log of the baseline can't be read or is damaged.
    """
    rules = registry.make_rules(select, ignore, thresholds)
    sampler = Sampler(overhead)
    log_dir = log_folder(log_dir)
    epochs, steps = checked("epochs", epochs, Count | None), checked("steps", steps, Count | None)
    check_loss("loss_fn", loss_fn)
    if on_finding is not None and not callable(on_finding):
        raise ConfigError(f"on_finding must be callable or None, not {shorten(on_finding)}")
    checked("probe", probe, bool)
    checked("progress", progress, bool)
    checked_sinks = registry.check_sinks(sinks)
    check_integration(model, optimizer)
    backend = registry.backend_of(model)
    model, optimizer = backend.unwrap(model, optimizer)
    backend.check_watched(model, optimizer, loss_fn)
    if switched_off():
        inactive = Monitor([], sampler, quiet=True)
        inactive.closed = True
        return inactive
    compare = None if baseline is None else _with_baseline(baseline, select, ignore, thresholds)
    earlier = None if state is None else read_state(state)
    rank = backend.rank
    first = rank == 0 and is_first_process()
    made_sinks = registry.make_sinks(checked_sinks, first=first)
    previous = watched_models.pop(model, None)
    if previous is not None:
        previous.close()
    monitor = Monitor(
        rules,
        sampler,
        log_dir=log_dir,
        on_finding=on_finding,
        compare_rows=_compare_rows,
        compare_logs=_compare_logs,
        compare=compare,
        run_probes=_run_probes if probe else None,
        sinks=made_sinks,
        display=_display() if progress else None,
        quiet=rank == 0 and not first,
        hold=rank > 0,  # this process finds out whether the first one reports for it, and is quiet then
    )
    if earlier is not None:
        monitor.restore(earlier)
    try:
        monitor.attach(backend.observe(model, optimizer, loss_fn, monitor, epochs=epochs, steps=steps))
    except BaseException:
        monitor.close()
        raise
    watched_models[model] = monitor
    return monitor


def _compare_logs(history: RunHistory, own: Path, began: float) -> Mapping[str, float]:
    from autotrainer.api.replay import recorded_run

    for path in earlier_logs(own.parent, own, began):
        with suppress(LogError, OSError):
            facts = resumed_run(history, *recorded_run(path))
            if facts:
                return facts
    return {}


def _run_probes(make: Callable[[], ProbedModel | None]) -> tuple[Mapping[str, float], tuple[str, ...]]:
    from autotrainer.diagnostics.probes import run_probes

    result = run_probes(make)
    return result.facts, result.input_fields


def _compare_rows(rows: ArrayData, targets: TargetSummary, context: TaskContext) -> Mapping[str, float]:
    from autotrainer.diagnostics.sampled_rows import score_simple_models  # takes time, and is needed at the end alone

    return score_simple_models(rows, targets, context)


def _display() -> RunDisplay | None:
    """Return a display below the running cell; None outside of notebooks."""
    output = CellOutput.of_running_cell()
    if output is None:
        return None
    from autotrainer.reporting.notebook.run_display import RunDisplay

    return RunDisplay(output)


def _with_baseline(
    baseline: Any, select: str | Iterable[str] | None, ignore: str | Iterable[str], thresholds: Any
) -> Callable[[RunHistory, TaskContext, Sequence[Finding]], Comparison]:
    """Return a function that compares a run with those of a baseline."""
    from autotrainer.api.compare import read_baseline  # without a baseline, these modules take only memory
    from autotrainer.comparison.compare import compare_runs
    from autotrainer.comparison.compared_run import ComparedRun

    runs = read_baseline(baseline, select, ignore, thresholds)

    def compare(history: RunHistory, context: TaskContext, findings: Sequence[Finding]) -> Comparison:
        run = ComparedRun("this run", history, context, tuple(findings))
        return compare_runs(runs, [run], among_baseline=history.finished)

    return compare
