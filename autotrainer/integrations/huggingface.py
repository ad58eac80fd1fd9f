"""Hugging Face transformers: a callback that watches what `Trainer.train` trains."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from autotrainer.integrations._callback import StopOn, WatchSession, held_out_values, require
from autotrainer.integrations._clipping import GradientReader
from autotrainer.integrations.sinks._support import as_scalar, show_in_run
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding
from autotrainer.sink import BufferSink

_library = require("transformers.trainer_callback", "huggingface", distribution="transformers", minimum="4.41")
_TrainerCallback: Any = _library.TrainerCallback
_ExportableState: Any = _library.ExportableState

__all__ = ["AutoTrainerCallback"]

_MOST_FRAMES = 3
"""Stack frames between an event and the handler of the callbacks, at most."""

_SPEEDS = ("_runtime", "_per_second", "_preparation_time")
"""Ends of the names of metrics that say how fast an evaluation was."""

_REPORTERS = "transformers.integrations"
"""Package of the callbacks of ``report_to``."""


class AutoTrainerCallback(_TrainerCallback, _ExportableState):
    """Watches the trainings of a `transformers.Trainer`.

    ```python
    from autotrainer.integrations.huggingface import AutoTrainerCallback

    trainer = Trainer(model, args, train_dataset=rows, callbacks=[AutoTrainerCallback()])
    trainer.train()
    ```

    The training stays what it is to the bit. The optimizer, the length, the loss (also where the model computes it, or
    ``compute_loss_func``), gradients before they are clipped, epochs and the metrics of evaluations are taken from the
    Trainer. Measurements and findings go to the loggers of ``report_to``. The history is part of checkpoints: a run
    that is resumed by ``train(resume_from_checkpoint=…)`` goes on in it.

    The Trainer has no event for exceptions. Use the callback as a context manager around ``train()`` to close it at
    once; otherwise it is closed when the next training begins, the Trainer is deleted, or the process ends. Findings
    are up to date in any case.

    Args:
        stop_on: Set ``control.should_training_stop`` at the first finding of this severity: ``"error"``, ``"warning"``
            (errors, too), or None. In a distributed training that is decided at the end of an epoch.
        loss_fn: The loss module that ``compute_loss`` calls, if there is one: its losses are then known at each step,
            rather than at the sampled ones. Not needed where the model computes the loss.
        log: Whether the loggers get measurements (``autotrainer/<layer>/<statistic>``) and findings.
        **options: Options of `autotrainer.watch`; ``epochs`` and ``steps`` take precedence over the Trainer's.

    Raises:
        ConfigError: If an option is unknown or invalid.
        StateError: In `Trainer.train`, if another callback watches the same training.
    """

    def __init__(
        self, *, stop_on: StopOn | None = None, loss_fn: nn.Module | None = None, log: bool = True, **options: Any
    ) -> None:
        self._session = WatchSession("AutoTrainerCallback", stop_on=stop_on, **options)
        self._settings = {"stop_on": stop_on, "log": log, **options}
        self._loss_fn, self._log = loss_fn, log
        self._history = ""  # that of a checkpoint, as JSON
        self._values: dict[str, Any] = {}  # of evaluations since the latest end of an epoch
        self._epoch_ends = False  # whether an epoch ends after the evaluation that is to come
        self._buffer = BufferSink()
        self._reporters: list[Any] = []
        self._gradients: GradientReader | None = None

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest training; None before the first."""
        return self._session.monitor

    def close(self, exception: BaseException | None = None) -> None:
        """Stop watching, where a training has ended by an exception; closing twice does nothing.

        Args:
            exception: What has ended the training, or None.
        """
        gradients, self._gradients = self._gradients, None
        if gradients is not None:
            gradients.end()
        self._session.close(exception)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(error)

    # -- the training -----------------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start watching: model and optimizer are wrapped and placed, and a checkpoint is restored."""
        self.close(RuntimeError("the training before did not come to its end"))
        self._restore(state)
        self._reporters = _reporters(self, sys._getframe(1)) if self._log else []
        self._buffer, self._values, self._epoch_ends = BufferSink(), {}, False
        epochs = float(args.num_train_epochs)
        monitor = self._session.start(
            kwargs["model"],
            kwargs["optimizer"],
            loss_fn=self._loss_fn,
            epochs=int(epochs) if args.max_steps <= 0 and epochs.is_integer() and epochs > 0 else None,
            steps=state.max_steps if state.max_steps > 0 else None,
            epochs_done=int(state.epoch or 0),
            steps_done=state.global_step,
            sinks=[self._buffer] if self._reporters else (),
        )
        with self._session.guard():
            observer = self._session.observer
            if observer is not None:
                observer.expect_epochs()
                if str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)) == "constant":
                    observer.expect_constant_rate()
                if args.gradient_accumulation_steps > 1:
                    observer.expect_accumulation()
                self._gradients = GradientReader(monitor, kwargs["optimizer"])
            batches = _length(kwargs.get("train_dataloader"))
            if batches and not monitor.closed:
                monitor.learn({"epoch_batches": float(batches)})
            self._session.end_resumed_epoch(int((state.epoch or 0) + 1e-6))  # a sum of fractions

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the epoch before, if its evaluation has not."""
        self._end_epoch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Pass on what was measured, and stop if that was asked for."""
        self._pass_on(args, state, control, kwargs)
        if args.world_size <= 1 and self._session.should_stop:
            control.should_training_stop = True
        return control

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Keep the metrics of an evaluation for the end of the epoch."""
        if self._session.running:
            with self._session.guard():
                values = held_out_values(metrics or {})
                self._values |= {name: value for name, value in values.items() if not name.endswith(_SPEEDS)}

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """End the epoch: at once, or after the evaluation that follows this event."""
        self._epoch_ends = self._session.running
        if not control.should_evaluate:
            self._end_epoch()
        if args.world_size > 1 and _any_process(self._session.should_stop, args.device):
            control.should_training_stop = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """End with the training's summary: the loggers are closed in the events that follow."""
        if logs is not None and "train_runtime" in logs:
            self._finish(args, state, control, kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop watching: the training has ended."""
        self._finish(args, state, control, kwargs)
        self._reporters = []

    # -- copies and checkpoints -------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        present = {"_buffer": BufferSink(), "_values": {}, "_reporters": [], "_gradients": None, "_epoch_ends": False}
        return {**vars(self), **present}

    def state(self) -> dict[str, Any]:
        """Return the settings and the history for a checkpoint."""
        plain: dict[str, Any] = {}
        history = ""
        with self._session.guard():
            if self._values:
                self._end_epoch()
            plain = {name: value for name, value in self._settings.items() if _is_plain(value)}
            stored = self._session.state_dict()
            history = json.dumps(stored) if stored else ""
        return {"args": plain, "attributes": {"_history": history}}

    def _restore(self, state: Any) -> None:
        """Take the history of the checkpoint that the Trainer resumes, if it does."""
        with self._session.guard():
            name, saved = type(self).__name__, state.stateful_callbacks
            stored = saved.get(name) if isinstance(saved, dict) else None
            if isinstance(saved, dict) and stored is None:
                saved[name] = {"args": {}, "attributes": {"_history": ""}}  # the Trainer expects it when it saves
            stored = stored[0] if isinstance(stored, list) and stored else stored
            attributes = stored.get("attributes") if isinstance(stored, Mapping) else None
            history = attributes.get("_history") if isinstance(attributes, Mapping) else None
            history = history or self._history
            self._history = ""
            if history and state.global_step:
                self._session.load_state_dict(json.loads(history))

    # -- internal ---------------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        if self._epoch_ends:
            self._epoch_ends = False
            values, self._values = self._values, {}
            self._session.end_epoch(values)

    def _finish(self, args: Any, state: Any, control: Any, event: Mapping[str, Any]) -> None:
        self._end_epoch()
        self.close()
        self._pass_on(args, state, control, event)

    def _pass_on(self, args: Any, state: Any, control: Any, event: Mapping[str, Any]) -> None:
        """Give the loggers what was measured and found since the last call."""
        scalars, findings = self._buffer.take_scalars(), self._buffer.take_findings()
        monitor = self.monitor
        if not (scalars or findings) or monitor is None or not state.is_world_process_zero:
            return
        values = {name: value for _, mapping in scalars for name, value in mapping.items()}
        for finding in findings:
            values |= as_scalar(finding)
        with monitor.guard("the Trainer's loggers"), monitor.sampler.stopwatch, monitor.sampler.evaluations:
            for reporter in self._reporters:
                reporter.on_log(args, state, control, logs=dict(values), **event)
                for finding in findings:
                    _log_finding(reporter, finding)


def _reporters(callback: Any, frame: Any) -> list[Any]:
    """Return the callbacks of ``report_to``: those of the handler that calls this one's event."""
    for _ in range(_MOST_FRAMES):
        if frame is None:
            break
        handler = frame.f_locals.get("self")
        callbacks = getattr(handler, "callbacks", None)
        if isinstance(callbacks, list) and any(each is callback for each in callbacks):
            return [each for each in callbacks if _is_reporter(each)]
        frame = frame.f_back
    return []


def _is_reporter(callback: Any) -> bool:
    return any(kind.__module__.startswith(_REPORTERS) for kind in type(callback).__mro__)


def _log_finding(reporter: Any, finding: Finding) -> None:
    """Log a finding as text where the logger has a way to, and as its native alert."""
    writer = getattr(reporter, "tb_writer", None)
    run = getattr(reporter, "_wandb", None) if writer is None else writer
    if not show_in_run(run, finding) and hasattr(getattr(reporter, "_ml_flow", None), "set_tag"):
        reporter._ml_flow.set_tag(f"autotrainer.{finding.problem}", str(finding))


def _length(loader: Any) -> int:
    with suppress(TypeError, NotImplementedError):  # an iterable data set
        return len(loader)
    return 0


def _is_plain(value: Any) -> bool:
    with suppress(TypeError, ValueError):
        json.dumps(value)
        return True
    return False


def _any_process(flag: bool, device: Any) -> bool:
    """Return whether a flag is set in any process of the training."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return flag
    flags = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)
