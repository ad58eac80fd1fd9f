"""PyTorch Lightning: a callback that watches what `Trainer.fit` trains."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from autotrainer.adapter.observer import LibraryObserver
from autotrainer.integrations._callback import StopOn, WatchSession, held_out_values, numbers, require
from autotrainer.integrations.sinks._support import as_scalar, show_in_run
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.findings import Finding
from autotrainer.sink import BufferSink

__all__ = ["AutoTrainer"]

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")
_SEARCHED = 3
"""Batches in which the loss module is searched for."""
_FACTORS = 8
"""Operations between the result of the loss module and the loss: factors and conversions, at most."""


def _base() -> Any:
    """Return the callback class of the namespaces that are imported, or else of the one that is installed."""
    imported = [name for name in _NAMESPACES if name in sys.modules]
    installed = imported or [name for name in _NAMESPACES if find_spec(name.partition(".")[0]) is not None]
    if not installed:
        require("lightning", "lightning")
    classes = [importlib.import_module(name).Callback for name in (imported or installed[:1])]
    return classes[0] if len(classes) == 1 else type("Callback", tuple(classes), {})


_Callback = _base()


class AutoTrainer(_Callback):  # type: ignore[misc, valid-type]
    """Watches a training of Lightning, in either namespace (``lightning.pytorch`` or ``pytorch_lightning``).

    ```python
    from autotrainer.integrations.lightning import AutoTrainer

    trainer = L.Trainer(max_epochs=10, callbacks=[AutoTrainer()])
    trainer.fit(model, train_loader, val_loader)
    ```

    The training stays what it is to the bit. Nothing has to be said about it: the optimizers, the length, the loss
    within ``training_step``, gradients before they are clipped, epochs and validation metrics are taken from the
    trainer. Measurements and findings go to the trainer's loggers. The history is part of checkpoints: a run that is
    resumed by ``fit(ckpt_path=…)`` goes on in it.

    Args:
        stop_on: Set ``trainer.should_stop`` at the first finding of this severity: ``"error"``, ``"warning"`` (errors,
            too), or None. In a distributed training that is decided at the end of an epoch.
        loss_fn: The loss, where it is a module that is no part of the LightningModule; None: it is found.
        log: Whether the trainer's loggers get measurements (``autotrainer/<layer>/<statistic>``) and findings.
        **options: Options of `autotrainer.watch`; ``epochs`` and ``steps`` take precedence over the trainer's.

    Raises:
        ConfigError: If an option is unknown or invalid.
        InputError: In `Trainer.fit`, if the training has no optimizer.
        StateError: In `Trainer.fit`, if the callback watches another training at the same time.
    """

    def __init__(
        self, *, stop_on: StopOn | None = None, loss_fn: nn.Module | None = None, log: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self._session = WatchSession("AutoTrainer", stop_on=stop_on, **options)
        self._loss_fn, self._log = loss_fn, log
        self._search: _LossSearch | None = None
        self._follows_module = False  # whether the loss is observed where its module is called
        self._values: dict[str, Any] = {}  # of the latest validation in this epoch
        self._buffer = BufferSink()
        self._backward_passes = [0, 0]  # in this batch, and in the previous one

    @property
    def monitor(self) -> Monitor | None:
        """The monitor of the present or latest training; None before the first."""
        return self._session.monitor

    # -- the training -----------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start watching: the strategy has wrapped and placed everything, and a checkpoint is restored."""
        optimizers = [each for each in trainer.optimizers if any(group["params"] for group in each.param_groups)]
        epochs, steps = trainer.max_epochs, trainer.max_steps
        self._buffer = BufferSink()
        monitor = self._session.start(
            _network(pl_module),
            optimizers,
            loss_fn=self._loss_fn,
            epochs=epochs if epochs is not None and epochs > 0 else None,
            steps=steps if steps > 0 and len(optimizers) == 1 else None,  # it counts the steps of all optimizers
            epochs_done=trainer.current_epoch,
            steps_done=trainer.global_step,
            position=trainer.global_step,
            sinks=[self._buffer] if self._log and trainer.loggers else (),
        )
        self._backward_passes = [0, 0]
        self._follows_module = self._loss_fn is not None
        observer = self._session.observer
        self._search = None if self._follows_module or observer is None else _LossSearch(pl_module, observer)
        with self._session.guard():
            if observer is not None:
                observer.expect_epochs()
                if pl_module.automatic_optimization:
                    observer.expect_accumulation()  # all backward passes of a step are those of its batches
                if pl_module.automatic_optimization and not trainer.lr_scheduler_configs:
                    observer.expect_constant_rate()  # `LearningRateFinder` leaves traces of its own schedule
            if isinstance(trainer.num_training_batches, int):
                monitor.learn({"epoch_batches": float(trainer.num_training_batches)})
            self._session.end_resumed_epoch(trainer.current_epoch, self._values)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Begin a batch."""
        self._backward_passes = [0, self._backward_passes[0]]
        if self._search is not None:
            with self._session.guard():
                if self._search.over:  # without a call of `on_before_backward`
                    self._search.end(None)
                    self._search = None
                else:
                    self._search.begin()

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """Take the loss that ``training_step`` has returned, without what Lightning makes of it."""
        self._backward_passes[0] += 1
        observer = self._session.observer
        if observer is None or self._follows_module or not isinstance(loss, Tensor):
            return
        with self._session.guard():
            if self._search is not None:
                call = self._search.end(loss)
                self._search = None if self._search.over else self._search
                if call is not None:
                    self._search, self._follows_module = None, True
                    observer.follow_loss(call[0], call[1:])
                    return
            # losses of several optimizers may be those of adversaries, which measure no progress
            measures_progress = len(trainer.optimizers) == 1 or self._backward_passes == [1, 1]
            if observer.wants_loss and measures_progress and self.monitor is not None:
                self.monitor.log(loss=_unscaled(trainer, pl_module, loss.detach()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Have the gradients read before they are clipped."""
        observer = self._session.observer
        if observer is not None:
            with self._session.guard():
                observer.read_gradients(optimizer)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Pass on what was measured, and stop if that was asked for."""
        self._pass_on(trainer)
        if trainer.world_size == 1 and self._session.should_stop:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the metrics of a validation for the end of the epoch."""
        if self._session.running and not trainer.sanity_checking:
            with self._session.guard():
                self._values = held_out_values(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """End the epoch, with the metrics of its latest validation."""
        values, self._values = self._values, {}
        self._session.end_epoch(values)
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._session.should_stop, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop watching: the training has ended."""
        self._close(trainer)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop watching: an exception has ended the training."""
        self._close(trainer, exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Stop watching, if nothing has before."""
        if stage == "fit":
            self._close(trainer)

    # -- copies and checkpoints -------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_search": None, "_buffer": BufferSink(), "_values": {}}

    def state_dict(self) -> dict[str, Any]:
        """Return the history for a checkpoint, as plain values."""
        with self._session.guard():
            state = self._session.state_dict()
            return {**state, "values": numbers(self._values)} if state else {}
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on in the history of a checkpoint."""
        with self._session.guard():
            self._session.load_state_dict(state_dict)
            values = state_dict.get("values")
            self._values = dict(values) if isinstance(values, Mapping) else {}

    # -- internal ---------------------------------------------------------------------------------------------------

    def _pass_on(self, trainer: Any) -> None:
        """Give the loggers what was measured and found since the last call."""
        scalars, findings = self._buffer.take_scalars(), self._buffer.take_findings()
        monitor = self.monitor
        if not (scalars or findings) or monitor is None:
            return
        with monitor.guard("the trainer's loggers"), monitor.sampler.stopwatch, monitor.sampler.evaluations:
            for logger in trainer.loggers:
                for step, values in scalars:
                    logger.log_metrics(dict(values), step=step)
                for finding in findings:
                    _log_finding(logger, finding)

    def _close(self, trainer: Any, exception: BaseException | None = None) -> None:
        if self._search is not None:
            self._search.end(None)
            self._search = None
        self._session.close(exception, position=trainer.global_step)
        self._pass_on(trainer)


class _LossSearch:
    """Searches for the loss module that ``training_step`` calls, in the first batches.

    One that is called in compiled code only is not found, as its calls can't be observed.

    Args:
        module: The LightningModule.
        observer: Observes the calls.
    """

    def __init__(self, module: nn.Module, observer: LibraryObserver) -> None:
        self._observer = observer
        self._modules = [each for each in module.modules() if _is_loss(each)]
        self._handles: list[Any] = []
        self._calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any]] = []
        self._left = _SEARCHED

    @property
    def over(self) -> bool:
        """Whether no further batch is searched."""
        return not self._modules or self._left <= 0

    def begin(self) -> None:
        """Note the calls of loss modules in the batch that begins."""
        self.end(None)
        self._left -= 1
        for module in self._modules:
            self._handles.append(self._observer.hook_calls(module, self._note))

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._calls.append((module, args, kwargs, output))

    def end(self, loss: Tensor | None) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any], Any] | None:
        """Stop, and return the only call of a loss module if the loss is its result, up to a factor; else None."""
        for handle in self._handles:
            handle.remove()
        calls, self._handles, self._calls = self._calls, [], []
        if loss is None or len(calls) != 1 or not isinstance(calls[0][3], Tensor):
            return None
        node, result = loss.grad_fn, calls[0][3].grad_fn
        for _ in range(_FACTORS):
            if node is result:
                return None if node is None else calls[0]
            following = [each for each, _ in node.next_functions if each is not None] if node is not None else []
            node = following[0] if len(following) == 1 else None
        return None


def _is_loss(module: nn.Module) -> bool:
    return isinstance(module, _Loss) or (
        type(module).__name__.endswith("Loss") and next(module.parameters(), None) is None
    )


def _network(module: nn.Module) -> nn.Module:
    """Return the child that has all parameters, so that layers have the same names as without Lightning; or itself."""
    parameters = {id(parameter) for parameter in module.parameters()}
    for child in module.children():
        if not isinstance(child, nn.ModuleList | nn.ModuleDict) and parameters == {id(p) for p in child.parameters()}:
            return child
    return module


def _unscaled(trainer: Any, module: Any, loss: Tensor) -> Tensor:
    """Return a loss without the division by the accumulated batches, and without the scale of half precision."""
    if module.automatic_optimization:
        loss = loss * trainer.accumulate_grad_batches
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is not None:
        loss = loss / scaler.scale(torch.ones((), device=loss.device))  # its number is on the device, too
    return loss


def _log_finding(logger: Any, finding: Finding) -> None:
    """Log a finding as a number, and as text where the logger has a way to."""
    logger.log_metrics(as_scalar(finding), step=finding.step)
    experiment = logger.experiment
    if not show_in_run(experiment, finding) and hasattr(experiment, "set_tag") and hasattr(logger, "run_id"):  # MLflow
        experiment.set_tag(logger.run_id, f"autotrainer.{finding.problem}", str(finding))
