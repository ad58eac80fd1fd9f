"""Watches a PyTorch training that the user runs, without changing it.

Between sampled steps two hooks remain: one on calls of the loss module, which keeps a reference to the loss, and one on
the optimizer's step, which counts. A step is sampled from the end of the previous step to its own end; only then does
the model have hooks, and only then is anything computed.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.losses.main_term import MainTerm
from autotrainer.backends.pytorch.losses.returned_tensors import Returned
from autotrainer.backends.pytorch.optim.later_optimizers import LaterOptimizers
from autotrainer.backends.pytorch.optim.missing_step import MissingStep
from autotrainer.backends.pytorch.ranks.processes import several_ranks
from autotrainer.backends.pytorch.ranks.rank_schedule import RankSchedule
from autotrainer.backends.pytorch.runtime.epoch_signals import add_listener, going_on, remove_listener
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook, never_compiled
from autotrainer.backends.pytorch.runtime.observation import observation, paused_collector
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.runtime.wrappers import unwrap_optimizer
from autotrainer.backends.pytorch.watching.custom_functions import CustomFunctions
from autotrainer.backends.pytorch.watching.epochs.watched_epochs import WatchedEpochs
from autotrainer.backends.pytorch.watching.first_call_probe import FirstCallProbe
from autotrainer.backends.pytorch.watching.losses.loss_call import LossCall
from autotrainer.backends.pytorch.watching.losses.loss_hook import RemovableHook
from autotrainer.backends.pytorch.watching.losses.loss_reports import LossReports
from autotrainer.backends.pytorch.watching.losses.loss_tracker import LossTracker, StepCounter, is_kept
from autotrainer.backends.pytorch.watching.losses.watched_losses import WatchedLosses
from autotrainer.backends.pytorch.watching.source_lines import SourceLines
from autotrainer.backends.pytorch.watching.step_measurement import StepMeasurement
from autotrainer.backends.pytorch.watching.watched_objects import OtherTrainings
from autotrainer.backends.pytorch.watching.watched_schedule import WatchedSchedule
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.output import logger
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place

__all__ = ["TorchObserver"]

_FULL_BATCH = 50
"""Steps with the same inputs, without the end of an epoch, from which each step is an epoch."""

_REPORTED = frozenset(10 * 4**power for power in range(12))
"""Numbers of steps of later optimizers at which they are reported: the rest follows at the end."""

_MANY_LAYERS, _SAMPLE = 500, 5
"""Layers from which the first sample may take longer than is allowed, and its cost as a multiple of that of describing
the model."""


class TorchObserver:
    """Holds the hooks of one watched training. Made by `observe`.

    The hook on the optimizer's step owns it, and with it all that refers to the model; nothing in here refers to the
    optimizers. So a training that nobody closes goes when its optimizer does, without the garbage collector.
    """

    owned_by_training = True

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...],
        loss_fn: Any,
        monitor: Recorder,
        context: TaskContext,
        modules: Mapping[str, nn.Module],
        infos: Sequence[LayerInfo],
    ) -> None:
        self._closed = True
        self._model = model  # must not be freed before the optimizer: it may be a mere container of what is trained
        self._optimizers = WeakSequence(optimizers)
        self._monitor = monitor
        self._counter = counter = StepCounter(monitor.history.step + 1)  # a training may continue another one
        self._first_step = counter.step
        fail = weak_method(self._fail)
        self._guard = guard = StatisticGuard(weak_method(monitor.fail_statistic))
        self._epochs = WatchedEpochs(model, monitor, counter, weak_method(self.epoch_values, default={}))
        on_evaluation = weak_method(self._evaluated)
        stopwatch = monitor.sampler.stopwatch
        self._step_measurement = StepMeasurement(
            model,
            optimizers,
            context,
            fail,
            guard,
            monitor.needs,
            lambda: counter.step,
            stopwatch,
            weak_method(self._epochs.detector.passed_without_gradients),
            modules,
            infos,
        )
        self._epochs.measurement = self._step_measurement
        self._others = OtherTrainings(model)
        self._source_lines = SourceLines(model, type(self._optimizers.first).__name__)
        note_loss_call = partial(self._source_lines.record_call, "loss")
        self._loss_tracker = LossTracker(
            model,
            loss_fn,
            self._step_measurement,
            self._counter,
            self._epochs.validation_loss,
            on_evaluation,
            weak_method(self._epochs.training_resumed),
            note_loss_call,
            guard,
            stopwatch,
        )
        self._losses = WatchedLosses(model, loss_fn, monitor, self._step_measurement, self._loss_tracker, guard)
        joins = several_ranks() and not monitor.context.managed
        self._ranks = RankSchedule.of_process(model, monitor, self._step_measurement, joins=joins)
        counter.wakes = self._ranks.alone  # else in the steps of all processes
        self._loss_reports = LossReports(
            model, monitor, counter, self._loss_tracker, self._step_measurement, self._ranks, guard
        )
        self._functions: CustomFunctions | None = None
        if (monitor.wants_probe or monitor.context.managed) and not several_ranks():
            self._functions = CustomFunctions(weak_method(self._report_functions), guard)
        self._probe = FirstCallProbe(model, monitor, self._losses)
        self._missing_step: MissingStep | None = MissingStep(optimizers)
        self._later = LaterOptimizers(optimizers, self)
        self._handles: list[RemovableHook] = []
        self._schedule = WatchedSchedule(optimizers[0], monitor, self._step_measurement, self._epochs.detector, guard)
        if context.planned_steps is not None and not monitor.sampler.stopped:
            self._epochs.last = context.planned_steps - 1

    # -- attach and detach ----------------------------------------------------------------------------------------

    def expect_cost(self, work: float, wall: float) -> None:
        """Expect the cost of the first sample to be in proportion to that of describing the model, if it is large.

        Ranks sample their first step in any case: they agree on all others in it.

        Args:
            work: Seconds of work that describing the model has taken.
            wall: Seconds by the wall clock.
        """
        if len(self._step_measurement.tracer.modules) >= _MANY_LAYERS and self._ranks.alone:
            self._monitor.sampler.expect(_SAMPLE * work, _SAMPLE * wall)

    def attach(self) -> None:
        """Set the permanent hooks, and sample the first step if it is due."""
        self._closed = False
        if self._monitor.context.managed:
            self._epochs.detector.stopped = True  # the trainer ends the epochs
        else:
            for loader, iterator in going_on():
                self._epochs.detector.loader_started(loader, iterator)
            add_listener(self._epochs.detector)
            add_listener(self._source_lines)
            self._later.attach()
        self._losses.attach()
        if self._step_measurement.compiled:
            logger.warning("the model is compiled: its activations are not measured, everything else is")
        self._handles.append(self._optimizers.first.register_step_post_hook(never_compiled(self._step_hook())))
        due = self._monitor.sampler.due(self._counter.step)
        if not (due or self._monitor.sampler.stopped):
            self._monitor.learn({"first_sample_waits": 1.0})
        self._begin_or_finish_sample(self._counter.step, due)

    def close(self) -> None:
        """Remove every hook and drop every reference to the user's objects."""
        if not self._handles and self._closed:
            return
        self._detach()
        self._report_end()

    def __del__(self) -> None:
        if not self._closed and not sys.is_finalizing():
            with self._monitor.guard("watching the PyTorch training"):
                self._detach()
                self._report_end()

    def _report_end(self) -> None:
        """Report what is known at the end, also of a training whose optimizer has gone before it was closed."""
        self._ranks.settle()
        self._ranks.close()
        self._monitor.advance(self._counter.step - 1)
        self._loss_reports.report_scale()
        self._loss_tracker.keep_latest(self._counter.step - 1)
        if self._missing_step is not None and not self._counter.step:
            losses = max(self._loss_tracker.losses_without_step(), self._losses.backward_passes)
            called = bool(losses or self._step_measurement.tracer.calls)
            self._monitor.learn(self._missing_step.facts(losses=losses, called=called))
        self._missing_step = None
        self._monitor.learn(self._later.facts)
        if self._step_measurement.tracer.transformed:
            self._monitor.learn({"transformed_calls": 1.0})
        self._loss_reports.report()
        if self._step_measurement.unseen and self._counter.step:
            self._monitor.learn({"compiled_layers": float(self._step_measurement.unseen)})
        if not self._monitor.context.managed:
            self._schedule.report_end(self._counter.step)
        self._epochs.finish()
        self._loss_tracker.clear_call()

    def follow_loss(self, loss_fn: Any, call: tuple[tuple[Any, ...], dict[str, Any], Any] | None = None) -> None:
        """Follow a loss that was unknown when this was attached.

        Args:
            loss_fn: Loss module, which is hooked; a function, whose losses are reported by `log`; or None.
            call: A call of the module in the present step: its arguments, keyword arguments and result.
        """
        self._losses.follow(loss_fn, call)

    def hook_calls(self, module: nn.Module, hook: Callable[..., None]) -> HookHandle:
        """Call a hook after each call of a module that is not within compiled code, until it is removed."""
        return add_hook(module, hook, with_kwargs=True)

    def leave_losses(self) -> None:
        """Leave the backward pass unread: losses are reported by `log` or a loss module, or are not followed."""
        self._losses.leave_backward()

    @property
    def steps(self) -> int:
        """Steps done."""
        return self._counter.step

    def expect_accumulation(self) -> None:
        """Take several backward passes of a step for those of one batch; see `LibraryObserver`."""
        self._losses.expect_accumulation()

    def ignore_losses(self) -> None:
        """Follow no loss: several losses take turns, and none of them measures progress."""
        self._losses.ignore()

    def trace_parts(self) -> None:
        """Hook the layers themselves: the model is a container that is never called."""
        self._step_measurement.trace_parts()

    def expect_constant_rate(self) -> None:
        """Take the optimizer for one without a schedule; see `LibraryObserver`."""
        self._step_measurement.constant_rate = True

    def read_gradients(self, optimizer: Any) -> None:
        """Read the gradients of a sampled step before they are clipped; see `LibraryObserver`."""
        if self._step_measurement.sampling and not self._closed:
            self._step_measurement.read_gradients(unwrap_optimizer(optimizer))

    def expect_epochs(self) -> None:
        """Leave the epochs to `Monitor.end_epoch`; see `LibraryObserver`."""
        self._epochs.detector.reported = True

    def skip(self, steps: int) -> None:
        """Count steps that were taken before this was attached."""
        self._monitor.sampler.skip(steps)
        self._counter.step += steps
        self._counter.wake_step += steps
        self._epochs.skip(steps)

    @property
    def sampling(self) -> bool:
        """Whether the current step is measured, so that outputs and targets are used."""
        return self._step_measurement.sampling

    @property
    def wants_loss(self) -> bool:
        """Whether the loss of the current step is kept."""
        return self._step_measurement.sampling or is_kept(self._counter.step)

    def place(self, what: Place, layer: str | None) -> str:
        """Return file and line where a layer is made, or the loss or the step is called; see `Locator`."""
        self._source_lines.output_activation = self._monitor.context.output_activation
        return self._source_lines.locate(what, layer, managed=self._monitor.context.managed)

    def _detach(self) -> None:
        self._probe.end()
        if self._functions is not None:
            self._functions.end()
            self._functions = None
        self._closed = True
        remove_listener(self._epochs.detector)
        remove_listener(self._source_lines)
        self._later.detach()
        self._step_measurement.end()
        self._step_measurement.mode_tracker.stop()
        self._losses.detach()
        self._loss_reports.end()
        if self._missing_step is not None:
            self._missing_step.end()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _fail(self, error: Exception) -> None:
        """Report an exception of our own code and stop watching; the training goes on."""
        self._monitor.fail("watching the PyTorch training", error)
        self._detach()
        with self._monitor.guard("leaving the other processes"):
            self._ranks.close()

    # -- the hook on the steps ------------------------------------------------------------------------------------

    def _step_hook(self) -> Callable[..., None]:
        counter, step_measurement = self._counter, self._step_measurement
        # In a compiled step, the attributes that these read would become constants of the compiled code.
        rare = self._begin_or_finish_sample, self._set_wake_step, self._due
        sample, set_wake_step, due = (torch.compiler.disable(function) for function in rare)  # type: ignore[no-untyped-call]

        def after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            counter.step = step = counter.step + 1
            if step >= counter.wake_step:
                if step_measurement.sampling:
                    sample(step, False)
                    return
                is_due = due(step)
                if is_due or step in (self._epochs.end, self._epochs.last):
                    sample(step, is_due)
                else:
                    set_wake_step(step)

        return after_step

    def _set_wake_step(self, step: int) -> None:
        """Set the step at which the step hook acts again."""
        if self._epochs.detector.waiting:
            self._note_epochs(step)
        if (self._counter.nonfinite_step or 0) > 0:
            self._report_nonfinite(step)
        wake_steps = max(step + 1, self._ranks.next_step), self._epochs.end, self._epochs.last
        self._counter.wake_step = min(each for each in wake_steps if each > step)

    def later_step(self) -> None:
        """Another optimizer of the same parameters, created meanwhile, has taken a step.

        A sample that waits for a step of the watched one ends: it would measure each pass from now on.
        """
        try:
            if self._step_measurement.sampling and self._ranks.alone:
                self._step_measurement.end()
                self._monitor.sampler.end_sample()
            if self._later.steps in _REPORTED:
                self._monitor.learn(self._later.facts)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)

    # -- losses ---------------------------------------------------------------------------------------------------

    def log(self, *, loss: Any, outputs: Any, targets: Any, losses: Mapping[str, Any] | None = None) -> None:
        """Record what the user's loop reports."""
        if not self._closed:
            self._loss_tracker.log(loss=loss, outputs=outputs, targets=targets, terms=losses)

    @property
    def seen(self) -> tuple[Returned, Callable[[Tensor], bool]]:
        """What the model has returned in the current step, if it is measured, and whether targets are its inputs."""
        tracer = self._step_measurement.tracer
        return tracer.returned, tracer.are_inputs

    def log_term(self, loss: Tensor, term: MainTerm) -> None:
        """Record a loss whose term with targets is known."""
        self.log(loss=loss, outputs=None, targets=None)
        self._loss_tracker.complete(self._counter.step, LossCall.of_term(loss, term), value=False)

    @property
    def agreed_stop(self) -> bool | None:
        """Whether all ranks are to stop; see `JointObserver`."""
        return self._ranks.stop

    def report_progress(self) -> None:
        """Report the latest step, and the losses kept so far; see `ProgressObserver`."""
        self._ranks.settle()
        self._monitor.advance(self._counter.step - 1)
        if not self._step_measurement.sampling:
            with observation():
                self._loss_reports.report()

    def _report_nonfinite(self, step: int) -> None:
        """Report, at once, that a loss is not finite for the first time."""
        with self._monitor.guard("the losses"), observation(), self._monitor.sampler.stopwatch:
            self._ranks.settle()  # records go by steps
            self._ranks.advance(step - 1)
            self._loss_reports.report()

    # -- epochs ---------------------------------------------------------------------------------------------------

    def _note_epochs(self, step: int) -> None:
        """Note that the first step after a signal of an epoch has been taken."""
        with observation(), self._monitor.sampler.stopwatch:
            self._guard.measure("epochs", self._epochs.detector.stepped, step)

    def _evaluated(self) -> None:
        self._epochs.detector.evaluated()
        self._source_lines.record_call("evaluation")

    def epoch_values(self) -> Mapping[str, float]:
        """Return the values of the epoch that ends; called by `Monitor.end_epoch`."""
        step = self._epochs.ending()
        if step is None:
            return {}
        self._ranks.settle()
        self._monitor.advance(step - 1)
        if self._monitor.context.managed or self._epochs.reports_losses:
            self._loss_reports.report_scale()
            if not self._step_measurement.sampling:
                self._loss_reports.report()
        values = self._epochs.read(step)
        self._loss_tracker.update_inspection()
        return values

    # -- sampled steps --------------------------------------------------------------------------------------------

    def _begin_or_finish_sample(self, step: int, due: bool) -> None:
        """Finish the sample of the step that has ended, and begin that of the next one if it is due.

        Args:
            step: Number of steps done, which is that of the step about to begin.
            due: Whether that step is to be sampled; decided here where a sample has just ended.
        """
        if self._closed:
            return
        if self._monitor.closed:  # in a forked child: store and groups of the processes are those of the parent
            self._step_measurement.end()
            return
        sampler = self._monitor.sampler
        if self._missing_step is not None and self._counter.step > self._first_step:
            self._missing_step.end()
            self._missing_step = None
        try:
            if self._epochs.detector.waiting:
                self._note_epochs(step)
            if self._step_measurement.sampling:
                with observation(), sampler.stopwatch, paused_collector():
                    self._finish(step - 1)
                sampler.end_sample()
                self._probe.run()
                due = self._due(step)
            with observation(), sampler.stopwatch:
                self._ranks.advance(step - 1)
                if due or self._is_extra(step):
                    self._begin_sample(step)
                else:
                    self._epochs.expect_evaluation(step)
                    self._set_wake_step(step)
                self._loss_tracker.update_inspection()
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)

    def _is_extra(self, step: int) -> bool:
        """Return whether to sample a step outside the schedule; those of several ranks are part of their schedule."""
        if self._ranks.joint:
            return False
        return step == self._epochs.last or self._epochs.is_extra(step)

    def _due(self, step: int) -> bool:
        """Return whether to sample a step by the schedule: that of all ranks, if they are measured together."""
        try:
            return self._ranks.due(step)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
            return False

    def _begin_sample(self, step: int) -> None:
        sampler = self._monitor.sampler
        sampler.begin_sample()
        sampler.stopwatch.waits = any(p.device.type != "cpu" for p in islice(self._model.parameters(), 1))
        self._losses.begin()
        if self._functions is not None:
            self._functions.begin()
        self._step_measurement.begin()
        self._counter.wake_step = step + 1

    def _report_functions(self, facts: Mapping[str, float], names: tuple[str, ...]) -> None:
        measurement = self._step_measurement
        measurement.context = replace(measurement.context, wrong_backward=names)
        self._monitor.begin(replace(self._monitor.context, wrong_backward=names))
        self._monitor.learn(facts)

    def _finish(self, step: int) -> None:
        """Report everything of a sampled step."""
        step_measurement = self._step_measurement
        with self._monitor.guard("reading the source"):
            self._source_lines.record_call("step")
        step_measurement.compare_step(self._optimizers.first)
        step_measurement.end()
        if self._functions is not None:
            self._functions.end()
        self._guard.measure("loss of the backward pass", self._losses.read_backward, step)
        self._monitor.learn(step_measurement.tracer.row_layout.facts)
        if step >= _FULL_BATCH:
            self._epochs.conclude_full_batch()
        self._epochs.count(step)
        self._loss_tracker.resolve_ambiguous_loss(step)
        if not step_measurement.layers_fixed:
            self._losses.fit_description()
            if not step_measurement.fix_layers(self._loss_tracker.call):
                return
            self._monitor.begin(step_measurement.context)
        elif step_measurement.refresh():
            self._monitor.begin(step_measurement.context)
        if self._others.have_stepped() and not step_measurement.context.optimizer.several:
            optimizer = replace(step_measurement.context.optimizer, several=True)
            step_measurement.context = replace(step_measurement.context, optimizer=optimizer)
            self._monitor.begin(step_measurement.context)
        losses = self._loss_tracker.take_losses()
        if step not in losses:
            self._losses.warn_if_compiled()
        terms = self._guard.measure("loss terms", self._loss_tracker.take_terms, step, losses)
        self._agree(step, losses)
        call = self._loss_tracker.call
        measured = step_measurement.observation(step, call, losses, terms, self._ranks.peers)
        around = self._guard.measure("learning rate", self._schedule.columns) or {}
        seen = measured.observation
        measured.observation = replace(seen, scalars={**seen.scalars, **around})
        end_of_epoch = self._epochs.end if self._ranks.joint and self._epochs.samples_end() else -1
        self._ranks.record(measured, (self._epochs.last, end_of_epoch))
        if math.isfinite(seen.loss):
            self._counter.rearm()
        self._loss_reports.check_inputs([seen.loss, *(loss for _, loss in seen.losses)])
        self._loss_tracker.clear_call()

    def _agree(self, step: int, losses: Mapping[int, Tensor | float]) -> None:
        """Find out at the end of the first sampled step whether all ranks are watched."""
        measurement = self._step_measurement
        has_loss = bool(losses) or self._loss_tracker.logged or self._loss_tracker.call is not None
        context = self._ranks.agree(step, measurement.context, measurement.weight_norm, has_loss=has_loss)
        if context is not None:
            measurement.context = context
            self._counter.wakes = not self._ranks.joint
            self._monitor.begin(context)
