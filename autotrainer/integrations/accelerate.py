"""Hugging Face accelerate: `watch` for what `Accelerator.prepare` returns, and a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import ref

from autotrainer.adapter.observer import LibraryObserver
from autotrainer.api.watch import watch as watch_training
from autotrainer.edits.base import shorten
from autotrainer.errors import InputError
from autotrainer.integrations._callback import held_out_values, require
from autotrainer.integrations._clipping import GradientReader
from autotrainer.integrations.sinks._support import as_scalar, show_in_run
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding
from autotrainer.sink import BufferSink

_GeneralTracker: Any = require("accelerate.tracking", "accelerate", minimum="0.27").GeneralTracker

__all__ = ["AutoTrainer", "watch"]

_NAME = "autotrainer"


def watch(accelerator: Any, model: Any, optimizer: Any, *, log: bool = True, **options: Any) -> Monitor:
    """Watch a training loop that uses accelerate.

    ```python
    from autotrainer.integrations.accelerate import watch

    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    with watch(accelerator, model, optimizer, epochs=3) as monitor:
        ...  # the loop, unchanged
    ```

    Beside what `autotrainer.watch` does, it knows that the batches of ``gradient_accumulation_steps`` make one step,
    reads gradients before `Accelerator.clip_grad_norm_`, and passes measurements and findings to the trackers.

    Args:
        accelerator: The accelerator.
        model: The model that ``prepare`` has returned.
        optimizer: The optimizer that ``prepare`` has returned, or a sequence of optimizers.
        log: Whether the trackers get measurements (``autotrainer/<layer>/<statistic>``) and findings.
        **options: Options of `autotrainer.watch`, such as ``loss_fn`` and ``epochs``.

    Returns:
        The monitor: use it as a context manager, or close it at the end. An `AutoTrainer` among the trackers closes it
        in ``accelerator.end_training()``.

    Raises:
        InputError: If the first argument is not an accelerator, or model and optimizer do not belong together.
        ConfigError: If an option is invalid.
    """
    if not hasattr(accelerator, "unwrap_model") or not hasattr(accelerator, "trackers"):
        raise InputError(f"watch(accelerator, model, optimizer) takes an Accelerator first, not {shorten(accelerator)}")
    own = options.pop("sinks", ())
    sinks = [own] if isinstance(own, str) or not hasattr(own, "__iter__") else list(own)
    trackers = _Trackers(accelerator, log=log)
    monitor = watch_training(accelerator.unwrap_model(model), optimizer, sinks=[*sinks, trackers], **options)
    observer = monitor.observer
    if isinstance(observer, LibraryObserver):
        if accelerator.gradient_accumulation_steps > 1:
            observer.expect_accumulation()
        trackers.attach(monitor, _plain_optimizer(optimizer))
    for tracker in (*accelerator.trackers, *getattr(accelerator, "log_with", ())):
        if isinstance(tracker, AutoTrainer):
            tracker.monitor = monitor
    return monitor


class AutoTrainer(_GeneralTracker):
    """A tracker that tells the monitor of `watch` what the loop logs, and closes it at the end of the training.

    ```python
    accelerator = Accelerator(log_with=AutoTrainer())
    accelerator.init_trackers("project")
    ...  # watch(accelerator, model, optimizer), and the loop
    accelerator.log({"val_loss": loss}, step=step)  # ends an epoch
    accelerator.end_training()
    ```

    Attributes:
        monitor: The monitor of the latest `watch`; None before it.
    """

    name = _NAME
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.monitor: Monitor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "monitor": None}

    @property
    def tracker(self) -> Monitor | None:
        """The monitor."""
        return self.monitor

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Keep nothing: settings of the run are not part of its history."""

    def log(self, values: Mapping[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """End an epoch if there are metrics on held-out data (``val_loss``, ``eval_accuracy``, …) among the values."""
        numbers = {name: value for name, value in held_out_values(values).items() if isinstance(value, int | float)}
        if numbers and self.monitor is not None:
            self.monitor.end_epoch(**numbers)

    def finish(self) -> None:
        """Close the monitor."""
        if self.monitor is not None:
            self.monitor.close()


class _Trackers(BufferSink):
    """Passes on what is measured to the trackers, in the thread of the training, after each step.

    Args:
        accelerator: The accelerator; no reference to it is kept.
        log: Whether the trackers get anything.
    """

    def __init__(self, accelerator: Any, *, log: bool) -> None:
        super().__init__()
        self._accelerator, self._log = ref(accelerator), log
        self._monitor: ref[Monitor] | None = None
        self._gradients: GradientReader | None = None
        self._handle: Any = None

    def attach(self, monitor: Monitor, optimizer: Any) -> None:
        """Follow the steps of an optimizer."""
        self._monitor = ref(monitor)
        self._gradients = GradientReader(monitor, optimizer)
        trackers = ref(self)

        def after_step(*_: Any) -> None:
            present = trackers()
            if present is not None:
                present.pass_on()

        self._handle = optimizer.register_step_post_hook(after_step)

    def pass_on(self) -> None:
        """Give the trackers what was measured and found since the last call."""
        scalars, findings = self.take_scalars(), self.take_findings()
        accelerator, monitor = self._accelerator(), None if self._monitor is None else self._monitor()
        if not (self._log and (scalars or findings)) or accelerator is None or monitor is None:
            return
        with monitor.guard("the trackers"), monitor.sampler.stopwatch, monitor.sampler.evaluations:
            for tracker in accelerator.trackers:
                if tracker.name != _NAME and accelerator.is_main_process:
                    for step, values in scalars:
                        tracker.log(dict(values), step=step)
                    for finding in findings:
                        _log_finding(tracker, finding)

    def close(self) -> None:
        """Pass on the rest, and stop."""
        self.pass_on()
        gradients, handle = self._gradients, self._handle
        self._gradients = self._handle = None
        if gradients is not None:
            gradients.end()
        if handle is not None:
            handle.remove()


def _log_finding(tracker: Any, finding: Finding) -> None:
    """Log a finding as a number, and as text where the tracker has a way to."""
    tracker.log(as_scalar(finding), step=finding.step)
    show_in_run(tracker.tracker, finding)


def _plain_optimizer(optimizer: Any) -> Any:
    """Return the optimizer itself, the first of several, without the wrapper of accelerate."""
    first = optimizer[0] if isinstance(optimizer, list | tuple) else optimizer
    while hasattr(first, "optimizer"):
        first = first.optimizer
    return first
