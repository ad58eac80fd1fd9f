"""Trainings in the user's own loop: the objects of each, made from the same start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter import LoopRun, LoopTrainer
from autotrainer.backends.pytorch.accompanying import Accompanied, Emptying
from autotrainer.backends.pytorch.best_weights import BestWeights
from autotrainer.backends.pytorch.clipping import clip_before_steps
from autotrainer.backends.pytorch.companions import Companion, FollowingMode
from autotrainer.backends.pytorch.data import LoaderBatches, rows_of
from autotrainer.backends.pytorch.describe import layers
from autotrainer.backends.pytorch.hosting import copied_to_host
from autotrainer.backends.pytorch.losses import as_module
from autotrainer.backends.pytorch.observer import observe
from autotrainer.backends.pytorch.random_state import RandomState, seed_all
from autotrainer.backends.pytorch.retiring import Retired
from autotrainer.backends.pytorch.schedulers import scheduler_maker, step_scheduler
from autotrainer.backends.pytorch.start import device_of, owns
from autotrainer.backends.pytorch.targets import seen_loss
from autotrainer.backends.pytorch.trainer import TorchTrainer
from autotrainer.data import StreamData
from autotrainer.edits import DecayRate, Edit, RestoreZeroGrad, SetMode
from autotrainer.errors import DataError, InputError
from autotrainer.exchange import FitRequest, LoopObjects, LoopRequest, Support, SupportLevel, Trained, TrainingSpec
from autotrainer.task import TaskContext

__all__ = ["TorchLoop", "make_loop"]

_OF_LOOPS = (RestoreZeroGrad, SetMode)
"""Edits of what `fit` does by itself."""
_UNIT = 1000.0
"""Operations of one sample of the training as given: only the ratio to those of other models counts."""


def make_loop(request: LoopRequest) -> TorchLoop:
    """Prepare trainings in the user's own loop.

    Raises:
        InputError: If model, optimizer, loss, loader or scheduler are not what they should be.
    """
    if not isinstance(request.optimizer, Optimizer):
        raise InputError(f"optimizer must be a torch.optim.Optimizer, not {type(request.optimizer).__name__}")
    if not owns(request.optimizer, request.model):
        raise InputError("the optimizer owns none of the model's parameters: build it over model.parameters()")
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
        self._pristine, _ = copied_to_host((request.model, request.optimizer, loss))
        self._scheduler = scheduler_maker(request.scheduler, request.optimizer)
        self._scaler = copied_to_host((request.scaler,))[0][0]
        scheduler = request.scheduler
        if scheduler is not None and not hasattr(scheduler, "step"):
            scheduler = scheduler(request.optimizer)
        self.given = LoopObjects(request.model, request.optimizer, loss, request.loader, scheduler, request.scaler)
        self._call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._recipes: _Recipes | None = None
        self._state = RandomState.now()
        self._present: _Present | None = None
        self._retired: list[Retired] = []

    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""
        recipes = self._recipes_now()
        if recipes is None:
            return Support(SupportLevel.NONE, "the model was never called in training mode, so nothing is known of it")
        if isinstance(edit, _OF_LOOPS):
            return Support(SupportLevel.REBUILD)
        if isinstance(edit, DecayRate) and self._scheduler is not None:
            return Support(SupportLevel.NONE, "your own loop steps a scheduler")
        return recipes.supports(edit)

    def begin(self, spec: TrainingSpec, run: LoopRun) -> LoopObjects:
        """Return the objects of a training, watched by the run's monitor."""
        before = self._present
        if before is None:
            self._state = RandomState.now()
            present = _Present(self.given, run)
            self._watch_call(present)
        else:
            present = self._build(spec, run)
            self._retired.append(Retired(before.objects.model, before.objects.optimizer))
        self._present = present
        model, optimizer = present.objects.model, present.objects.optimizer
        context, operations = self._described(present, spec)
        plan = {"epochs": spec.epochs, "steps": None if context is None else context.planned_steps}
        run.monitor.attach(observe(model, optimizer, seen_loss(present.objects.loss_fn), run.monitor, **plan))
        run.start(context or run.monitor.context, operations)
        present.count_steps()
        return replace(present.objects, loader=LoopLoader(present))

    def begin_epoch(self, epoch: int) -> None:
        """Tell the edits that an epoch begins."""
        present = self._present
        assert present is not None
        present.epoch, present.over = epoch, False
        if present.accompanied is not None:
            present.accompanied.begin_epoch(epoch)

    def settle(self) -> bool:
        """Account for steps on batches of the user's own making, and say whether all weights are finite."""
        present = self._present
        assert present is not None
        if not present.batches and present.steps:
            present.run.spend(present.steps * (self._batches.size or 1), training=True)
        present.steps = present.batches = 0
        present.end_training()
        return present.finite

    def end_epoch(self, badness: float) -> bool:
        """Step the scheduler of an edit, and keep the best weights where an edit wants them."""
        present = self._present
        assert present is not None
        step_scheduler(present.scheduler, badness)
        present.best.take(present.objects.model, badness)
        return not present.best.exhausted

    def end(self) -> Trained:
        """Say that the present training has ended."""
        present = self._present
        assert present is not None
        present.detach()
        objects = present.objects
        present.best.restore(objects.model)
        objects.model.eval()

        def unknown(_: Any) -> Any:
            raise NotImplementedError("the user's loop evaluates")

        return Trained(objects.model, objects.optimizer, objects.edits, unknown, unknown)

    def close(self) -> None:
        """Give the user's objects back."""
        if self._present is not None:
            self._present.detach()
        for retired in self._retired:
            retired.release()
        self._retired.clear()

    # -- inside -------------------------------------------------------------------------------------------------------

    def _watch_call(self, present: _Present) -> None:
        """Keep the first call of the model as given in training mode: it shows how the user's loop calls it."""

        def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module.training and self._call is None:
                self._call = args, kwargs
                handle.remove()

        handle = present.objects.model.register_forward_pre_hook(keep, with_kwargs=True)
        present.handles.append(handle)

    def _recipes_now(self) -> _Recipes | None:
        """Return what builds trainings, once it is known how the model is called."""
        if self._recipes is None:
            model, optimizer, loss = self._pristine
            stream = StreamData(self._request.loader)
            request = FitRequest(
                model, stream, stream, loss, optimizer, self._request.epochs, self._batches.size or 1,
                scheduler=self._scheduler, keep=self._request.keep, seed=self._request.seed,
            )  # fmt: skip
            try:
                self._recipes = _Recipes(request)
            except DataError:  # batches that the user's loop takes apart: go by the call that was seen
                if self._call is None:
                    return None
                self._recipes = _Recipes(replace(request, step=_SeenCall(*self._call)))
        return self._recipes

    def _described(self, present: _Present, spec: TrainingSpec) -> tuple[TaskContext | None, float]:
        recipes = self._recipes_now()
        if recipes is None:
            return None, _UNIT
        return recipes.describe(present, spec)

    def _build(self, spec: TrainingSpec, run: LoopRun) -> _Present:
        recipes = self._recipes_now()
        assert recipes is not None, "nothing is planned for a model of which nothing is known"
        self._batches.rewind()
        seed_all(spec.seed)
        present = recipes.make(spec, self._request.loader, run)
        scaler = copied_to_host((self._scaler,))[0][0]
        present.objects = replace(present.objects, scaler=scaler)
        self._state.restore()
        return present


@dataclass(slots=True)
class _Present:
    """One training with what belongs to it besides the user's objects."""

    objects: LoopObjects
    run: LoopRun
    scheduler: Any = None
    best: BestWeights = field(default_factory=lambda: BestWeights(None))
    accompanied: Accompanied | None = None
    handles: list[Any] = field(default_factory=list)
    epoch: int = 0
    over: bool = False
    steps: int = 0
    batches: int = 0

    def count_steps(self) -> None:
        """Count the optimizer's steps from here on."""

        def count(*_: Any) -> None:
            self.steps += 1

        self.handles.append(self.objects.optimizer.register_step_post_hook(count))

    def end_training(self) -> None:
        """Tell the edits, once an epoch, that its training is over; what comes is its evaluation."""
        if not self.over and self.accompanied is not None:
            self.accompanied.end_epoch(self.epoch)
        self.over = True

    @property
    def finite(self) -> bool:
        """Whether all weights are finite."""
        return all(bool(torch.isfinite(p).all()) for p in self.objects.model.parameters())

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()


class _Recipes(TorchTrainer):
    """Builds the objects of trainings instead of running them."""

    def __init__(self, request: FitRequest) -> None:
        super().__init__(request)
        with torch.random.fork_rng():
            model, _, _ = self._start.fresh()
            self._operations = self._look(model).operations

    def describe(self, present: _Present, spec: TrainingSpec) -> tuple[TaskContext, float]:
        """Return the context of a training, and operations of one sample."""
        objects = present.objects
        look = self._look(objects.model)
        context = self._context(look, objects.optimizer, objects.loss_fn, spec.epochs, self._train_data(None))
        if not look.anatomy.layers:
            context = replace(context, layers=layers(objects.model))
        return context, _UNIT * look.operations / self._operations

    def make(self, spec: TrainingSpec, loader: Any, run: LoopRun) -> _Present:
        """Build a training.

        Raises:
            ConfigError: If an edit can't be applied.
        """
        mine = tuple(edit for edit in spec.edits if isinstance(edit, _OF_LOOPS))
        training, edits = self._build(replace(spec, edits=tuple(edit for edit in spec.edits if edit not in mine)))
        own = self._request.scheduler is not None
        source = training.train.source if isinstance(training.train, LoaderBatches) else loader
        objects = LoopObjects(
            training.model,
            training.optimizer,
            training.objective.loss,
            source,
            training.scheduler if own else None,
            edits=edits + mine,
        )
        present = _Present(objects, run, None if own else training.scheduler, BestWeights(training.patience))
        more: dict[type[Edit], Callable[[], Companion]] = {
            RestoreZeroGrad: lambda: Emptying(training.optimizer),
            SetMode: lambda: FollowingMode(training.model),
        }
        companions = (*training.companions, *(more[type(edit)]() for edit in mine))
        if companions:
            assert training.objective.loss is not None
            present.accompanied = Accompanied(training.optimizer, training.objective.loss, companions)
            present.handles.append(present.accompanied)
        if training.clip is not None:  # after the companions, which see gradients as they are
            present.handles.append(clip_before_steps(training.optimizer, training.clip))
        return present


class _SeenCall:
    """Calls a model as the user's loop did; stands where `fit` has the user's own step."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def __call__(self, model: nn.Module, batch: Any) -> tuple[torch.Tensor, Any, None]:
        outputs = model(*self._args, **self._kwargs)
        return torch.zeros(()), outputs, None


class LoopLoader:
    """The training batches of the user's loop; ends early where a repair, or the budget, ends the training.

    Everything else is what the loader itself has: ``len``, ``batch_size``, ``dataset``, ….
    """

    def __init__(self, present: _Present) -> None:
        self._present = present

    def __iter__(self) -> Iterator[Any]:
        present, run = self._present, self._present.run
        training = False
        for batch in present.objects.loader:
            training = present.objects.model.training  # else the user's loop evaluates on training data
            if training:
                if (run.suspect and not present.finite) or not run.spend(rows_of(batch), training=True):
                    break
                present.batches += 1
            yield batch
        if training:
            present.end_training()

    def __len__(self) -> int:
        return len(self._present.objects.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_present":
            raise AttributeError(name)
        return getattr(self._present.objects.loader, name)
