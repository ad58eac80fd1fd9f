"""Trainings in the user's own loop: makes the objects of each from the same initial state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.loop import LoopRun, LoopTrainer
from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.adapter.spec import FitRequest, LoopObjects, LoopRequest, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.backends.pytorch.data.batches import LoaderBatches
from autotrainer.backends.pytorch.data.targets import observed_loss
from autotrainer.backends.pytorch.loop.checkpoint import Checkpoint
from autotrainer.backends.pytorch.loop.loop_builder import LOOP_EDITS, REFERENCE_OPERATIONS, LoopBuilder, RecordedCall
from autotrainer.backends.pytorch.loop.loop_training import LoopLoader, LoopTraining, rates_of
from autotrainer.backends.pytorch.loop.stale_objects import StaleObjects
from autotrainer.backends.pytorch.loop.user_loop import UserLoop
from autotrainer.backends.pytorch.model.losses import as_module
from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.backends.pytorch.optim.schedulers import is_scheduler, make_scheduler, step_scheduler
from autotrainer.backends.pytorch.probing.probed_model import probed_call, reads_rows_first
from autotrainer.backends.pytorch.runtime.devices import device_of
from autotrainer.backends.pytorch.runtime.hooks import add_hook
from autotrainer.backends.pytorch.runtime.host_offload import is_large
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.runtime.torch_private import is_step_wrapped
from autotrainer.backends.pytorch.watching.attach import observe
from autotrainer.edits import DecayRate, Edit, ResizeOutputLayer
from autotrainer.edits.base import shorten
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import StreamData, as_stream
from autotrainer.records.task import TaskContext

__all__ = ["TorchLoop", "make_loop"]


_SCALER_METHODS = ("scale", "step", "update", "state_dict")


def make_loop(request: LoopRequest) -> TorchLoop:
    """Prepare trainings in the user's own loop.

    Raises:
        DataError: If the loader can't be read repeatedly.
        InputError: If model, optimizer, loss or scheduler have the wrong type or do not belong together.
    """
    if not isinstance(request.optimizer, Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, not {type(request.optimizer).__name__}")
    if not owns(request.optimizer, request.model):
        raise InputError("the optimizer owns none of the model's parameters: build it over model.parameters()")
    if request.scheduler is None and is_step_wrapped(request.optimizer):
        raise InputError(
            "the optimizer has a learning-rate scheduler that Loop does not know, so it could not follow a repair: "
            "give it as scheduler=..., and step loop.scheduler"
        )
    if not callable(request.loss_fn):
        raise InputError(f"loss_fn must be a loss module or callable, not {type(request.loss_fn).__name__}")
    as_stream(request.loader, "train_loader", "a DataLoader or another iterable that can be read anew in each epoch")
    is_scaler = all(callable(getattr(request.scaler, name, None)) for name in _SCALER_METHODS)
    if request.scaler is not None and (isinstance(request.scaler, type) or not is_scaler):
        raise InputError(f"scaler must be a torch.amp.GradScaler or None, not {shorten(request.scaler)}")
    return TorchLoop(request)


class TorchLoop(LoopTrainer):
    """Makes the objects of each training; see `LoopTrainer`. Made by `make_loop`."""

    def __init__(self, request: LoopRequest) -> None:
        self._request = request
        self._batches = LoaderBatches(request.loader, device_of(request.model), pairs=False, name="train_loader")
        loss = as_module(request.loss_fn)
        objects = LoopObjects(request.model, request.optimizer, loss, request.loader, None, request.scaler)
        self._initial = Checkpoint.of(objects, 0, request.scheduler)
        self._healthy_checkpoint: Checkpoint | None = None
        scheduler = request.scheduler
        if scheduler is not None and not is_scheduler(scheduler):
            scheduler = make_scheduler(scheduler, request.optimizer)
        self.given = replace(objects, scheduler=scheduler)
        self._first_call: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
        self._builders: dict[int, LoopBuilder] = {}
        self._current: LoopTraining | None = None
        self._stale: list[StaleObjects] = []
        self._keeps_checkpoints = not is_large(request.model)
        self._user_loop = UserLoop()

    def supports(self, edit: Edit) -> Support:
        """Return whether a training with this edit can be run, and why not."""
        builder = self._builder_from(self._initial)
        reason = self._user_loop.refusal(edit)
        if builder is None:
            reason = "the model was never called in training mode, so nothing is known about it"
        elif isinstance(edit, ResizeOutputLayer):
            reason = "your own loop takes outputs of the original shape"
        elif isinstance(edit, DecayRate) and self._initial.scheduler is not None:
            reason = "your own loop steps a scheduler"
        if builder is None or reason:
            return Support(SupportLevel.NONE, reason)
        return Support(SupportLevel.REBUILD) if isinstance(edit, LOOP_EDITS) else builder.supports(edit)

    def begin(self, spec: TrainingSpec, run: LoopRun) -> LoopObjects:
        """Return the objects of a training, watched by the run's monitor."""
        previous = self._current
        if previous is None:
            self._initial = self._initial.with_current_randomness()
            checkpoint, current = self._initial, LoopTraining(self.given, run)
            self._record_first_call(current)
        else:
            healthy = self._healthy_checkpoint
            checkpoint = healthy if spec.start and healthy is not None else self._initial
            current = self._build(checkpoint, spec, run)
            self._stale.append(StaleObjects(previous.objects))
        self._current = current
        model, optimizer = current.objects.model, current.objects.optimizer
        context, operations = self._describe(current, spec)
        plan = {"epochs": spec.epochs, "steps": None if context is None else context.planned_steps}
        run.monitor.attach(observe(model, optimizer, observed_loss(current.objects.loss_fn), run.monitor, **plan))
        run.start(context or run.monitor.context, operations)
        current.count_steps()
        current.rates = rates_of(optimizer)
        checkpoint.generators.restore()
        checkpoint.random_state.restore()
        return replace(current.objects, loader=LoopLoader(current))

    def keep_point(self, epoch: int) -> bool:
        """Keep the original training as it is right before an epoch, in host memory."""
        if self._keeps_checkpoints:
            try:
                self._healthy_checkpoint = Checkpoint.of(self.given, epoch)
            except Exception:  # noqa: BLE001 - it can no longer be copied since it has run, and continues without
                self._keeps_checkpoints = False
        return self._keeps_checkpoints

    def begin_epoch(self, epoch: int) -> None:
        """Run the callbacks of edits at the beginning of an epoch."""
        self._running.begin_epoch(epoch)

    def settle(self) -> bool:
        """Account for steps on batches from elsewhere than the loader; return whether all weights are finite."""
        current = self._running
        if current.objects is self.given:
            self._user_loop.observe_epoch(current, self._initial)
        if not current.batches and current.steps:
            current.run.spend(current.steps * (self._batches.size or 1), training=True)
        current.steps = current.batches = 0
        current.end_training()
        return current.finite

    def overruled(self) -> str:
        """Return why an edit of the current training has no effect, or an empty string."""
        return self._user_loop.overrides(self._running)

    def end_epoch(self, badness: float) -> bool:
        """Step the scheduler of an edit, and keep the best weights if an edit asks for it."""
        current = self._running
        step_scheduler(current.scheduler, badness)
        current.best.update(current.objects.model, badness)
        return not current.best.exhausted

    def end(self) -> Trained:
        """End the current training, and return it."""
        current = self._running
        current.detach()
        objects = current.objects
        current.best.restore(objects.model)
        objects.model.eval()

        def unsupported(_: Any) -> Any:
            raise NotImplementedError("the user's loop evaluates")

        return Trained(objects.model, objects.optimizer, objects.edits, unsupported, unsupported)

    def probed(self) -> ProbedModel | None:
        """Return a copy of the current model with the inputs of its first call, and the targets of the first batch."""
        if self._first_call is None:
            return None
        args, kwargs = self._first_call
        batch, first = self._running.first_batch, first_tensor((args, kwargs))
        targets = (
            first_tensor(batch[1]) if isinstance(batch, tuple | list) and len(batch) == 2 else kwargs.get("labels")
        )
        rows_first = reads_rows_first(getattr(self._request.loader, "batch_size", None), first) or None
        return probed_call(self._running.objects.model, args, kwargs, targets, rows_first=rows_first)

    @contextmanager
    def stand_in(self, loss: float) -> Iterator[tuple[LoopBuilder, Trained] | None]:
        """Return a trainer for the original training and a copy of its model, if it reproduces the loss of the loop."""
        current, generators = self._running, self._initial.generators.now()
        builder = self._builder_from(self._initial)
        with preserve_random_state():
            try:
                reproduced = builder is not None and builder.reproduces(current.first_batch, loss)
                yield (builder, builder.copy_of(current.objects.model)) if builder is not None and reproduced else None
            finally:
                generators.restore()

    def close(self) -> None:
        """Release the user's objects."""
        if self._current is not None:
            self._current.detach()
        for stale in self._stale:
            stale.release()
        self._stale.clear()
        self._builders.clear()
        self._healthy_checkpoint = None

    @property
    def _running(self) -> LoopTraining:
        assert self._current is not None, "the core begins a training first"
        return self._current

    def _record_first_call(self, current: LoopTraining) -> None:
        """Record the first call of the original model in training mode, to know how the user's loop calls it."""

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training and self._first_call is None:
                self._first_call = args, kwargs
                handle.remove()

        handle = add_hook(current.objects.model, record, before=True, with_kwargs=True)
        current.handles.append(handle)

    def _builder_from(self, checkpoint: Checkpoint) -> LoopBuilder | None:
        """Return what builds trainings from a checkpoint, once it is known how the model is called."""
        if checkpoint.epoch not in self._builders:
            builder = self._make_builder(checkpoint)
            if builder is None:
                return None
            self._builders[checkpoint.epoch] = builder
        return self._builders[checkpoint.epoch]

    def _make_builder(self, checkpoint: Checkpoint) -> LoopBuilder | None:
        stream = StreamData(self._request.loader, "train_loader")
        state = checkpoint.initial_state
        request = FitRequest(
            state.reference,
            stream,
            stream,
            self.given.loss_fn,
            state.linked_optimizer,
            self._request.epochs,
            self._batches.size or 1,
            scheduler=checkpoint.scheduler,
            keep=self._request.keep,
            seed=self._request.seed,
        )
        try:
            return LoopBuilder(request, state)
        except DataError:  # the user's loop unpacks its batches in its own way: use the recorded call
            if self._first_call is None:
                return None
            args, kwargs = self._first_call
            return LoopBuilder(replace(request, step=RecordedCall(args, dict(kwargs))), state)

    def _describe(self, current: LoopTraining, spec: TrainingSpec) -> tuple[TaskContext | None, float]:
        builder = self._builder_from(self._initial)
        return (None, REFERENCE_OPERATIONS) if builder is None else builder.describe(current.objects, spec)

    def _build(self, checkpoint: Checkpoint, spec: TrainingSpec, run: LoopRun) -> LoopTraining:
        builder = self._builder_from(checkpoint)
        assert builder is not None, "nothing is planned for a model about which nothing is known"
        seed_all(spec.seed)
        current = builder.build(spec, self._request.loader, run)
        current.objects = replace(current.objects, scaler=checkpoint.scaler())
        return current
