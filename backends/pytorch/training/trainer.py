"""Managed training in PyTorch: checks what `autotrainer.fit` was given, and runs trainings of it with edits."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from autotrainer.adapter.backend import ReplayRun, Run, Trainer
from autotrainer.adapter.spec import (
    Evaluation,
    FitRequest,
    PausedTraining,
    Support,
    SupportLevel,
    Trained,
    TrainingSpec,
)
from autotrainer.backends.pytorch.data.batches import Batches, first_rows, is_repeatable
from autotrainer.backends.pytorch.data.examples import Examples
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.data.targets import seen_loss
from autotrainer.backends.pytorch.data.training_data import TrainingData, make_objective, trains_otherwise
from autotrainer.backends.pytorch.model.describe import optimizer_info
from autotrainer.backends.pytorch.model.functional import first_tensor
from autotrainer.backends.pytorch.model.loss_kinds import is_plain, loss_info
from autotrainer.backends.pytorch.model.losses import EditedLoss, bridge
from autotrainer.backends.pytorch.model.operations import count_operations
from autotrainer.backends.pytorch.optim.optimizers import adopt_parameters, edit_optimizer, set_rate
from autotrainer.backends.pytorch.runtime.devices import device_of, dtype_of
from autotrainer.backends.pytorch.runtime.host_offload import is_large, is_remote
from autotrainer.backends.pytorch.runtime.random_state import preserve_random_state, seed_all
from autotrainer.backends.pytorch.runtime.saving import save_model
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, SiteTracer
from autotrainer.backends.pytorch.surgery.surgery import Surgeon, in_order
from autotrainer.backends.pytorch.training.callback_support import callbacks_of, plan_edit
from autotrainer.backends.pytorch.training.edit_support import EditSupport
from autotrainer.backends.pytorch.training.initial_state import InitialState
from autotrainer.backends.pytorch.training.nonfinite_search import SearchedTraining
from autotrainer.backends.pytorch.training.training import Training, copied, evaluate, predict
from autotrainer.backends.pytorch.watching.observer import observe
from autotrainer.edits import (
    ClipGradients,
    DecayRate,
    Edit,
    ReduceOnPlateau,
    Rollback,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SkipUpdates,
    StopEarly,
)
from autotrainer.errors import ConfigError, InputError
from autotrainer.records.data import ArrayData, Data, as_array, map_arrays
from autotrainer.records.task import TaskContext

__all__ = ["Look", "TorchTrainer", "make_trainer", "save_model"]

_EVALUATION_ROWS = 256
_LIVE = (SetLearningRate, SetMomentum, ClipGradients, ReduceOnPlateau, SkipUpdates, Rollback)


def make_trainer(request: FitRequest) -> TorchTrainer:
    """Prepare managed trainings.

    Raises:
        ConfigError: If an option is of no use in PyTorch, optimizer or loss are missing, or samples have weights and
            the loss can't be weighted.
        DataError: If the data do not fit the model.
        InputError: If model, optimizer and loss do not belong together.
    """
    if request.fit_args:
        raise ConfigError(
            f"fit_args={dict(request.fit_args)!r} is for Keras: in PyTorch use step=, scheduler= and the optimizer"
        )
    for name in ("step", "scheduler"):
        value = getattr(request, name)
        if value is not None and not callable(value):
            raise ConfigError(f"{name} must be callable, not {value!r}")
    if request.loss is not None and loss_info(request.loss).targets in ("index", "either"):
        request = replace(request, train=_with_indices(request.train), validation=_with_indices(request.validation))
    return TorchTrainer(request)


def _with_indices(data: Data) -> Data:
    """Return data whose boolean targets are the class indices that a loss takes."""
    if not isinstance(data, ArrayData) or data.targets.dtype.kind != "b":
        return data
    return replace(data, targets=data.targets.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Look:
    """What one forward pass of a model on the examples shows."""

    anatomy: ActivationGraph
    operations: float
    output: Tensor | None
    single: bool


class TorchTrainer(Trainer):
    """Runs trainings of one PyTorch model, each from the same pristine start. See `make_trainer`."""

    def __init__(self, request: FitRequest, start: InitialState | None = None) -> None:
        self._request = request
        with preserve_random_state():
            self._start = InitialState.of(request) if start is None else start
            reference = self._start.reference
            if any(isinstance(p, UninitializedParameter) for p in reference.parameters()):
                Examples.of(request, reference, self._objective(None))
            model, _, loss = self._start.fresh()
            self._device, self._dtype = device_of(model), dtype_of(model)
            self._examples = Examples.of(request, model, self._objective(loss))
            self._material = TrainingData(request, self._examples, self._device, self._dtype)
            optimizer = self._start.reference_optimizer()
            look = self._look(model)
            context = self._context(look, optimizer, loss, request.epochs, self._train_data(None))
            self.context = replace(context, loss_refusal=self._examples.refusal(model))
        self.resumable = self._is_resumable(model)
        self._anatomy = look.anatomy
        deep = look.output is not None and look.output.ndim > 2
        self._class_axis = self.context.loss.class_axis if deep else -1
        surgeon = self._operate(reference)
        single = look.single or request.step is not None
        self._consultant = EditSupport(
            request, surgeon, optimizer, self._examples, look.output, single=single, material=self._material
        )

    def _is_resumable(self, model: nn.Module) -> bool:
        """Say whether a paused training can be kept: not on a device for one model, nor with data that move on."""
        train, here = self._request.train, not any(is_remote(tensor) for tensor in model.parameters())
        return here and not is_large(model) and (isinstance(train, ArrayData) or is_repeatable(train.source))

    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""
        reason = self._consultant.refusal(edit)
        if reason:
            return Support(SupportLevel.NONE, reason)
        return Support(SupportLevel.LIVE if isinstance(edit, _LIVE) else SupportLevel.REBUILD)

    def identity(self) -> Mapping[str, Any]:
        """Return what the training as given is made of."""
        model, optimizer = self._start.reference, self._start.reference_optimizer()
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        groups = [
            {**group, "params": [names.get(id(parameter)) for parameter in group["params"]]}
            for group in optimizer.param_groups
        ]
        return {
            "model": [model, str(self._device)],
            "loss": self._request.loss,
            "optimizer": [type(optimizer), groups, list(optimizer.state.values())],
        }

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays; a loader is read in the same order each time."""
        return super().sample(data, rows) if isinstance(data, ArrayData) else first_rows(self._open(data, rows), rows)

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a training that runs; parameter groups keep their ratios."""
        return set_rate(trained.optimizer, rate)

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the pristine start with the edits of the recipe, and run it.

        Raises:
            ConfigError: If an edit can't be applied.
            Exception: Whatever the model, the loss, the data or the user's ``step`` raise.
        """
        seed_all(spec.seed)
        training, edits = self._build(spec)
        trained = self._trained(training, edits)
        run.keep(trained)
        model, optimizer, loss = training.model, training.optimizer, training.objective.loss
        look = self._look(model)
        context = self._context(look, optimizer, loss, spec.epochs, training.train)
        observed = None if self._request.step is not None else seen_loss(loss)

        def course() -> Generator[None]:
            observer = observe(
                model, optimizer, observed, run.monitor, epochs=context.planned_epochs, steps=context.planned_steps
            )
            run.monitor.attach(observer)
            try:
                run.start(context, look.operations)
                yield from training.run(run)
            finally:
                observer.close()

        paused = PausedTraining(course())
        trained.paused = paused if paused.go_on() else None
        return trained

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
        """Replay a training up to the first value that is not finite."""
        seed_all(spec.seed)
        training, _ = self._build(spec)
        look = self._look(training.model)
        run.start(self.context, look.operations)
        searched = SearchedTraining.of(training, run, [layer.name for layer in look.anatomy.layers])
        PausedTraining(searched.run(run)).go_on()

    # -- building a training ---------------------------------------------------------------------------------------

    def _build(self, spec: TrainingSpec) -> tuple[Training, tuple[Edit, ...]]:
        """Return a training with the edits of a recipe, and those edits as they were applied."""
        model, optimizer, loss = self._start.fresh()
        before = list(model.parameters())
        judge = self._objective(copied(loss))
        model, edits = self._edited(model, spec.edits)
        settings: dict[type[Edit], Any] = {type(edit): edit for edit in edits}
        if optimizer is None:
            optimizer = self._start.make_optimizer(model)
        adopt_parameters(optimizer, model, before)
        optimizer = edit_optimizer(optimizer, model, edits)
        if SetLoss in settings:
            loss = EditedLoss(settings[SetLoss])
        objective = self._objective(loss, edits)
        if objective.loss is not None and trains_otherwise(edits):
            convert = bridge(loss_info(objective.loss), loss_info(judge.loss)) if SetLoss in settings else None
            judge = replace(judge, convert=convert, otherwise=copied(objective.loss))
        stop, material = settings.get(StopEarly), self._material_of(model)
        train = material.train(edits, spec.seed)
        edits = tuple(_with_length(edit, train, spec.epochs) for edit in edits)
        training = Training(
            model=model,
            optimizer=optimizer,
            objective=objective,
            judge=judge,
            train=train,
            validation=material.open(self._request.validation, max(self._request.batch_size, _EVALUATION_ROWS)),
            epochs=spec.epochs,
            seed=spec.seed,
            scheduler=None if DecayRate in settings else self._scheduler(optimizer, settings.get(ReduceOnPlateau)),
            clip=settings.get(ClipGradients),
            patience=None if stop is None else stop.patience,
            companions=callbacks_of(edits, model, optimizer, lambda: self._look(model).anatomy, spec.epochs),
        )
        return training, edits

    def _edited(self, model: nn.Module, edits: Sequence[Edit]) -> tuple[nn.Module, tuple[Edit, ...]]:
        """Return a model with edits, and the edits as they were applied.

        Raises:
            ConfigError: If one can't be applied.
        """
        surgeon = self._operate(model)
        applied: list[Edit] = []
        for edit in in_order(edits):
            reason = self._consultant.value_refusal(edit)
            planned: tuple[Edit, ...] = ()
            if not reason:
                planned, reason = plan_edit(surgeon, edit)
            if reason:
                raise ConfigError(f"{type(edit).__name__} can't be applied: {reason}")
            for one in map(self._material.fitted, planned):
                surgeon.apply(one)
                applied.append(one)
        return surgeon.model, tuple(applied)

    def _operate(self, model: nn.Module) -> Surgeon:
        def run(copy: nn.Module) -> Any:
            return self._examples.forward(copy.to(self._device))

        return Surgeon(model, self._anatomy, self._request.keep, self._class_axis, run)

    def _scheduler(self, optimizer: Optimizer, edit: Any) -> Any:
        if self._request.scheduler is not None:
            made = self._request.scheduler(optimizer)
            if not callable(getattr(made, "step", None)):
                raise InputError(
                    f"scheduler(optimizer) must return a learning-rate scheduler, not {type(made).__name__}"
                )
            return made
        if edit is None:
            return None
        floors = [edit.floor * float(group["lr"]) for group in optimizer.param_groups]
        return ReduceLROnPlateau(optimizer, factor=edit.factor, patience=edit.patience, min_lr=floors)

    def _objective(self, loss: nn.Module | None, edits: Sequence[Edit] = ()) -> Objective:
        return make_objective(self._request, loss, edits)

    def _material_of(self, model: nn.Module) -> TrainingData:
        """Return the data in the floating-point type of a model."""
        if dtype_of(model) == self._dtype:
            return self._material
        loss = self._start.fresh()[2]
        examples = Examples.of(self._request, model, self._objective(loss))
        return TrainingData(self._request, examples, self._device, dtype_of(model))

    def _train_data(self, edits: Sequence[Edit] | None, seed: int = 0) -> Batches:
        return self._material.train(edits or (), seed)

    def _open(self, data: Data, size: int) -> Batches:
        return self._material.open(data, size)

    # -- what is known and what comes out --------------------------------------------------------------------------

    def _look(self, model: nn.Module) -> Look:
        """Run a model once on the examples, undisturbed."""
        tracer = SiteTracer(model)
        seen: list[Any] = []
        anatomies: list[ActivationGraph] = []

        def forward() -> None:
            anatomies.append(tracer.follow(lambda: seen.append(examples.forward(model))))

        examples = self._material_of(model).examples
        operations = count_operations(model, forward, examples.batch.rows)
        output = first_tensor(seen[0], floating=True)
        return Look(anatomies[0], operations, None if output is None else output.detach(), output is seen[0])

    def _context(
        self, look: Look, optimizer: Optimizer, loss: nn.Module | None, epochs: int, train: Batches
    ) -> TaskContext:
        info = loss_info(loss)
        inputs = self._examples.batch.raw if self._examples.batch.inputs is None else self._examples.batch.inputs
        units = None
        if look.output is not None:
            units = int(look.output.shape[info.class_axis]) if look.output.ndim > 1 else 1
        as_given = look.output is not None and look.single and is_plain(loss)
        return TaskContext(
            framework="pytorch",
            engine="pytorch",
            loss=info,
            optimizer=optimizer_info(optimizer),
            layers=look.anatomy.layers,
            output_activation=look.anatomy.output,
            output_units=units,
            output_rank=look.output.ndim if as_given and look.output is not None else None,
            input_kind="values" if first_tensor(inputs, floating=True) is not None else "index",
            planned_epochs=epochs,
            planned_steps=None if train.steps is None else epochs * train.steps,
            train_rows=train.rows,
            batch_size=train.size,
            managed=True,
        )

    def _trained(self, training: Training, edits: tuple[Edit, ...]) -> Trained:
        model, judge, material = training.model, training.judge, self._material_of(training.model)
        size = max(self._request.batch_size, _EVALUATION_ROWS)

        def predict_inputs(inputs: Any) -> NDArray[np.float64]:
            arrays = map_arrays(as_array, tuple(inputs) if isinstance(inputs, list) else inputs)
            first = next(iter(arrays.values())) if isinstance(arrays, dict) else arrays
            rows = len(first[0] if isinstance(first, tuple) else first)
            return predict(model, material.open(ArrayData(arrays, np.zeros(rows)), size).read())

        def evaluate_data(data: Data) -> Evaluation:
            found = evaluate(model, judge, material.open(data, size))
            assert found is not None
            return found

        return Trained(model, training.optimizer, edits, predict_inputs, evaluate_data)


def _with_length(edit: Edit, train: Batches, epochs: int) -> Edit:
    """Return a decay of the learning rate with the steps of its training.

    Raises:
        ConfigError: If they are not known beforehand.
    """
    if not isinstance(edit, DecayRate) or edit.steps:
        return edit
    if train.steps is None:
        raise ConfigError("DecayRate can't be applied: the number of steps is not known beforehand")
    return replace(edit, steps=epochs * train.steps)
