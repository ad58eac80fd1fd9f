"""The seam between the core and a framework: what a backend has to offer.

A backend is one folder with a subclass of `Backend`; its managed trainings are run by a subclass of `Trainer`.
Both are exercised by the contract tests in `autotrainer.testing`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.data import ArrayData, Data
from autotrainer.edits import Edit, SetLearningRate, SetMomentum, SetWeightDecay, SwapOptimizer
from autotrainer.first_bad import FirstBad
from autotrainer.monitor import Monitor, Observer
from autotrainer.signals import LayerInfo, Observation
from autotrainer.task import TaskContext

__all__ = [
    "Backend",
    "Evaluation",
    "FitRequest",
    "Run",
    "Search",
    "Support",
    "SupportLevel",
    "Trained",
    "Trainer",
    "TrainingSpec",
]


class SupportLevel(StrEnum):
    """How a backend can apply an edit: to a running training, by building it anew, or not at all."""

    LIVE = "live"
    REBUILD = "rebuild"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Support:
    """Answer of `Backend.supports`: the level, and the reason where it is `SupportLevel.NONE`."""

    level: SupportLevel
    reason: str = ""

    def __bool__(self) -> bool:
        return self.level is not SupportLevel.NONE


@dataclass(frozen=True, slots=True)
class FitRequest:
    """What `autotrainer.fit` was given, checked and normalized.

    Attributes:
        model: Model of the framework, or zero-argument callable that builds one.
        train: Training data.
        validation: Validation data.
        loss: Loss of the framework (module, callable, name), or None for a compiled Keras model.
        optimizer: Optimizer over the model's parameters, callable(params), name, or None.
        epochs: Planned epochs, >= 1.
        batch_size: Samples a batch for array data.
        step: PyTorch: callable(model, batch) -> loss or (loss, outputs, targets); else None.
        scheduler: PyTorch: callable(optimizer) -> scheduler; else None.
        fit_args: Keras: further arguments of ``Model.fit``.
        keep: Layer-name patterns (fnmatch) that nothing may touch.
        seed: Seed of every training.
    """

    model: Any
    train: Data
    validation: Data
    loss: Any
    optimizer: Any
    epochs: int
    batch_size: int
    step: Callable[..., Any] | None = None
    scheduler: Callable[..., Any] | None = None
    fit_args: Mapping[str, Any] = field(default_factory=dict)
    keep: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Recipe of one training: the given one, with edits.

    Attributes:
        epochs: Epochs to train.
        seed: Seed of shuffling, dropout and drawn weights.
        edits: Changes to the training as given, in the order in which they were found.
        rehearsal: Whether it is a short test beside the trainings, in which the user's callbacks have no part.
    """

    epochs: int
    seed: int
    edits: tuple[Edit, ...] = ()
    rehearsal: bool = False

    def with_edits(self, edits: Sequence[Edit]) -> Self:
        """Return the recipe with more edits.

        A later edit replaces an earlier one of its kind, for the same layers where it names layers. Another
        optimizer replaces the settings of the one before it too.
        """
        places = {(type(e), getattr(e, "layers", None)) for e in edits}
        if any(isinstance(e, SwapOptimizer) for e in edits):
            places |= {(kind, None) for kind in (SetLearningRate, SetMomentum, SetWeightDecay)}
        kept = tuple(e for e in self.edits if (type(e), getattr(e, "layers", None)) not in places)
        return replace(self, edits=kept + tuple(edits))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Predictions on a data set.

    Attributes:
        outputs: Raw outputs, row by row.
        targets: Targets, row by row, as given.
        loss: Mean of the loss as given, which judges all attempts alike.
        trained_loss: Mean of the loss that an attempt trains on instead, which tells its course; None where it is
            the same.
        counted: Targets with -100 as the class index of what does not count; None where all counts.
    """

    outputs: NDArray[Any]
    targets: NDArray[Any]
    loss: float
    trained_loss: float | None = None
    counted: NDArray[Any] | None = None

    @property
    def course(self) -> float:
        """The loss that tells how the training goes: the one that it minimizes."""
        return self.loss if self.trained_loss is None else self.trained_loss


class Run(Protocol):
    """What the core gives a `Trainer` for one training.

    The trainer attaches the backend's observer (``run.monitor.attach(observe(...))``); the core closes the monitor
    when `Trainer.train` has returned or raised.
    """

    monitor: Monitor

    def keep(self, trained: Trained) -> None:
        """Take what is about to be trained, before the first batch: the core falls back on it if Ctrl-C ends
        the training as given half-way."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training with its edits, and operations of one forward pass of one sample."""

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for work that is about to be done: a training step (three passes) or a forward pass.

        Returns:
            False if the budget does not allow it: the trainer must not do it, and ends the training. For training
            steps enough is held back for a last evaluation.
        """

    def end_epoch(self, epoch: int, values: Mapping[str, float], evaluation: Evaluation | None) -> bool:
        """Take what is known at the end of an epoch; ``values`` has ``loss`` at least.

        Returns:
            True to go on, False to end the training here: the trainer returns what it has.
        """


class Search(Run, Protocol):
    """A run that looks for the first value that is not finite."""

    first: int
    """First step to check."""
    found: FirstBad | None
    """What was found: the trainer sets it, and is given no more work from then on."""
    steps: int
    """Training steps that were accounted for."""


@dataclass(slots=True)
class Trained:
    """A finished managed training.

    Attributes:
        model: The trained model, in evaluation mode.
        optimizer: The optimizer that trained it.
        edits: The edits in force, with numbers that were fitted on the data filled in.
        predict: inputs (as in the data) -> raw outputs, shape (rows, ...).
        evaluate: data -> `Evaluation`.
    """

    model: Any
    optimizer: Any
    edits: tuple[Edit, ...]
    predict: Callable[[Any], NDArray[np.float64]]
    evaluate: Callable[[Data], Evaluation]


class Trainer(ABC):
    """Runs trainings of one given model, each from the same pristine start; the given objects stay unchanged."""

    context: TaskContext
    """The training as given."""

    @abstractmethod
    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""

    def sample(self, data: Data, rows: int) -> ArrayData | None:
        """Return the first rows of a data set as arrays, in the types in which its batches come.

        Args:
            data: Training or validation data.
            rows: How many at most; whole batches are read until there are as many.

        Returns:
            The rows; None where a batch is no (inputs, targets), rows differ in form, or the backend reads no streams.
        """
        return data.take(np.arange(min(rows, data.rows))) if isinstance(data, ArrayData) else None

    def set_rate(self, trained: Trained, rate: float) -> bool:
        """Set the learning rate of a training that runs, before its next step.

        Returns:
            False where that can't be done: nothing has changed then.
        """
        return False

    def search(self, spec: TrainingSpec, run: Search) -> None:
        """Replay a training, check each step from a given one on, and tell the first value that is not finite.

        Nothing is observed meanwhile, and a trainer that can't do so does nothing.
        """
        return None

    @abstractmethod
    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Build the training from the pristine start with the edits of the recipe, and run it.

        Evaluates on the validation data at the end of every epoch (and of a training that the budget ends).

        Raises:
            Exception: Whatever the framework or the user's code raises: the core makes it a failed attempt.
        """


class Backend(ABC):
    """One framework."""

    name: ClassVar[str]
    package: ClassVar[str]
    """Top-level package of the framework (``torch``, ``keras``): in `sys.modules` once the user has imported it."""

    @abstractmethod
    def accepts(self, model: Any) -> bool:
        """Say whether a model is of this framework, through `sys.modules`, importing nothing."""

    @abstractmethod
    def layers(self, model: Any) -> tuple[LayerInfo, ...]:
        """Return the layers of a model, in forward order as far as that is known without running it."""

    @abstractmethod
    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Monitor, **plan: Any) -> Observer:
        """Attach to a training that the user runs.

        Args:
            model: The model.
            optimizer: Optimizer, sequence of optimizers, or None.
            loss_fn: Loss module or callable, or None.
            monitor: Takes what is observed: `Monitor.begin`, `Monitor.record`, `Monitor.advance`,
                `Monitor.end_epoch`.
            **plan: ``epochs`` and ``steps``, the planned length, or None.

        Returns:
            What detaches everything again.

        Raises:
            InputError: If the objects do not belong together.
        """

    @abstractmethod
    def probe(
        self, model: Any, data: Any, loss: Any, optimizer: Any, batches: int
    ) -> tuple[TaskContext, list[Observation]]:
        """Look at a model before training: forward passes on a few batches, nothing changed.

        Args:
            model: The model.
            data: (x, y), loader or data set of the framework.
            loss: Loss, or None.
            optimizer: Optimizer, or None.
            batches: How many batches to read at most.

        Returns:
            The context and one observation a batch, without gradients.
        """

    @abstractmethod
    def trainer(self, request: FitRequest) -> Trainer:
        """Prepare managed trainings.

        Raises:
            InputError: If model, data, loss, optimizer or an option can't be used together.
        """

    @abstractmethod
    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return a fresh model and an optimizer with the edits applied; the given ones are not to be used further.

        Raises:
            ConfigError: If an edit can't be applied to this model.
        """

    @abstractmethod
    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Return a context manager that puts back every random state that managed trainings touch."""

    @abstractmethod
    def save_model(self, model: Any, folder: Path) -> Path:
        """Write a trained model to an existing folder, in the framework's own format.

        Args:
            model: The model.
            folder: Where to write ``model.pt`` or ``model.keras``. A file that is there is replaced only once the
                new one is complete.

        Returns:
            The file.

        Raises:
            InputError: If the model can't be saved; says why.
        """
