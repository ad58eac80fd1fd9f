"""Trainings in the user's own loop: the objects of each, made from the same start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.backend import LoopRun, LoopTrainer
from autotrainer.adapter.spec import FitRequest, LoopObjects, LoopRequest, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.backends.pytorch.data.batches import LoaderBatches
from autotrainer.backends.pytorch.data.targets import seen_loss
from autotrainer.backends.pytorch.loop.checkpoint import Checkpoint
from autotrainer.backends.pytorch.loop.loop_builder import OF_LOOPS, UNIT, LoopBuilder, SeenCall
from autotrainer.backends.pytorch.loop.loop_training import LoopLoader, LoopTraining, rates_of
from autotrainer.backends.pytorch.loop.stale_objects import StaleObjects
from autotrainer.backends.pytorch.loop.user_loop import UserLoop
from autotrainer.backends.pytorch.model.losses import as_module
from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.backends.pytorch.optim.schedulers import step_scheduler
from autotrainer.backends.pytorch.runtime.devices import device_of
from autotrainer.backends.pytorch.runtime.hooks import add_hook
from autotrainer.backends.pytorch.runtime.host_offload import is_large
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.watching.observer import observe
from autotrainer.edits import DecayRate, Edit
from autotrainer.errors import DataError, InputError
from autotrainer.records.data import StreamData
from autotrainer.records.task import TaskContext

__all__ = ["TorchLoop", "make_loop"]


def make_loop(request: LoopRequest) -> TorchLoop:
    """Prepare trainings in the user's own loop.

    Raises:
        InputError: If model, optimizer, loss, loader or scheduler are not what they should be.
    """
    if not isinstance(request.optimizer, Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, not {type(request.optimizer).__name__}")
    if not owns(request.optimizer, request.model):
        raise InputError("the optimizer owns none of the model's parameters: build it over model.parameters()")
    if request.scheduler is None and hasattr(request.optimizer.step, "_wrapped_by_lr_sched"):
        raise InputError(
            "the optimizer has a learning-rate scheduler that Loop does not know, and that no repair could follow: "
            "give it as scheduler=..., and step loop.scheduler"
        )
    if not callable(request.loss_fn):
        raise InputError(f"loss_fn must be a loss module or callable, not {type(request.loss_fn).__name__}")
    if not hasattr(request.loader, "__iter__") or hasattr(request.loader, "__next__"):
        raise DataError(
            f"train_loader must be a DataLoader or another iterable that can be read in each epoch anew, not "
            f"{type(request.loader).__name__}"
        )
    return TorchLoop(request)


class TorchLoop(LoopTrainer):
    """Makes the objects of each training; see `LoopTrainer`. Made by `make_loop`."""

    def __init__(self, request: LoopRequest) -> None:
        self._request = request
        self._batches = LoaderBatches(request.loader, device_of(request.model), pairs=False)
        loss = as_module(request.loss_fn)
        given = LoopObjects(request.model, request.optimizer, loss, request.loader, None, request.scaler)
        self._pristine = Checkpoint.of(given, 0, request.scheduler)
        self._healthy: Checkpoint | None = None
        scheduler = request.scheduler
        if scheduler is not None and not hasattr(scheduler, "step"):
            scheduler = scheduler(request.optimizer)
        self.given = replace(given, scheduler=scheduler)
        self._call: tuple[tuple[Any, ...], Mapping[str, Any]] | None = None
        self._recipes: dict[int, LoopBuilder] = {}
        self._present: LoopTraining | None = None
        self._retired: list[StaleObjects] = []
        self._keeps_points = not is_large(request.model)
        self._habits = UserLoop()

    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""
        recipes = self._recipes_from(self._pristine)
        reason = self._habits.refusal(edit)
        if recipes is None:
            reason = "the model was never called in training mode, so nothing is known of it"
        elif isinstance(edit, DecayRate) and self._pristine.scheduler is not None:
            reason = "your own loop steps a scheduler"
        if recipes is None or reason:
            return Support(SupportLevel.NONE, reason)
        return Support(SupportLevel.REBUILD) if isinstance(edit, OF_LOOPS) else recipes.supports(edit)

    def begin(self, spec: TrainingSpec, run: LoopRun) -> LoopObjects:
        """Return the objects of a training, watched by the run's monitor."""
        before = self._present
        if before is None:
            self._pristine = self._pristine.here()
            point, present = self._pristine, LoopTraining(self.given, run)
            self._watch_call(present)
        else:
            point = self._healthy if spec.start and self._healthy is not None else self._pristine
            present = self._build(point, spec, run)
            self._retired.append(StaleObjects(before.objects))
        self._present = present
        model, optimizer = present.objects.model, present.objects.optimizer
        context, operations = self._described(present, spec)
        plan = {"epochs": spec.epochs, "steps": None if context is None else context.planned_steps}
        run.monitor.attach(observe(model, optimizer, seen_loss(present.objects.loss_fn), run.monitor, **plan))
        run.start(context or run.monitor.context, operations)
        present.count_steps()
        present.rates = rates_of(optimizer)
        point.generators.restore()
        point.state.restore()
        return replace(present.objects, loader=LoopLoader(present))

    def keep_point(self, epoch: int) -> bool:
        """Keep the training as given as it is right before an epoch, on the host."""
        if self._keeps_points:
            try:
                self._healthy = Checkpoint.of(self.given, epoch)
            except Exception:  # noqa: BLE001 - it can be copied no more since it has run, and goes on without that
                self._keeps_points = False
        return self._keeps_points

    def begin_epoch(self, epoch: int) -> None:
        """Tell the edits that an epoch begins."""
        self._now.begin_epoch(epoch)

    def settle(self) -> bool:
        """Account for steps on batches of the user's own making, and say whether all weights are finite."""
        present = self._now
        if present.objects is self.given:
            self._habits.learn(present, self._pristine)
        if not present.batches and present.steps:
            present.run.spend(present.steps * (self._batches.size or 1), training=True)
        present.steps = present.batches = 0
        present.end_training()
        return present.finite

    def overruled(self) -> str:
        """Say why an edit of the present training is not in force, or return an empty text."""
        return self._habits.overrules(self._now)

    def end_epoch(self, badness: float) -> bool:
        """Step the scheduler of an edit, and keep the best weights where an edit wants them."""
        present = self._now
        step_scheduler(present.scheduler, badness)
        present.best.take(present.objects.model, badness)
        return not present.best.exhausted

    def end(self) -> Trained:
        """Say that the present training has ended."""
        present = self._now
        present.detach()
        objects = present.objects
        present.best.restore(objects.model)
        objects.model.eval()

        def unknown(_: Any) -> Any:
            raise NotImplementedError("the user's loop evaluates")

        return Trained(objects.model, objects.optimizer, objects.edits, unknown, unknown)

    @contextmanager
    def stand_in(self, loss: float) -> Iterator[tuple[LoopBuilder, Trained] | None]:
        """Give what runs the training as given, with a copy of its model, if it has the loss of the user's loop."""
        present, generators = self._now, self._pristine.generators.now()
        recipes = self._recipes_from(self._pristine)
        with preserve_random_state():
            try:
                same = recipes is not None and recipes.agrees(present.first, loss)
                yield (recipes, recipes.copy_of(present.objects.model)) if recipes is not None and same else None
            finally:
                generators.restore()

    def close(self) -> None:
        """Give the user's objects back."""
        if self._present is not None:
            self._present.detach()
        for retired in self._retired:
            retired.release()
        self._retired.clear()
        self._recipes.clear()
        self._healthy = None

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _now(self) -> LoopTraining:
        assert self._present is not None, "the core begins a training first"
        return self._present

    def _watch_call(self, present: LoopTraining) -> None:
        """Keep the first call of the model as given in training mode: it shows how the user's loop calls it."""

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training and self._call is None:
                self._call = args, kwargs
                handle.remove()

        handle = add_hook(present.objects.model, keep, before=True, with_kwargs=True)
        present.handles.append(handle)

    def _recipes_from(self, point: Checkpoint) -> LoopBuilder | None:
        """Return what builds trainings from a point, once it is known how the model is called."""
        if point.epoch not in self._recipes:
            made = self._make_recipes(point)
            if made is None:
                return None
            self._recipes[point.epoch] = made
        return self._recipes[point.epoch]

    def _make_recipes(self, point: Checkpoint) -> LoopBuilder | None:
        stream = StreamData(self._request.loader)
        request = FitRequest(
            point.start.reference, stream, stream, self.given.loss_fn, point.start.linked, self._request.epochs,
            self._batches.size or 1, scheduler=point.scheduler, keep=self._request.keep, seed=self._request.seed,
        )  # fmt: skip
        try:
            return LoopBuilder(request, point.start)
        except DataError:  # batches that the user's loop takes apart: go by the call that was seen
            if self._call is None:
                return None
            args, kwargs = self._call
            return LoopBuilder(replace(request, step=SeenCall(args, dict(kwargs))), point.start)

    def _described(self, present: LoopTraining, spec: TrainingSpec) -> tuple[TaskContext | None, float]:
        recipes = self._recipes_from(self._pristine)
        return (None, UNIT) if recipes is None else recipes.describe(present.objects, spec)

    def _build(self, point: Checkpoint, spec: TrainingSpec, run: LoopRun) -> LoopTraining:
        recipes = self._recipes_from(point)
        assert recipes is not None, "nothing is planned for a model of which nothing is known"
        seed_all(spec.seed)
        present = recipes.make(spec, self._request.loader, run)
        present.objects = replace(present.objects, scaler=point.scaler())
        return present
