"""The seam between the core and a framework: what a backend has to offer.

A backend is one folder with a subclass of `Backend`; its managed trainings are run by a subclass of `Trainer`.
Both are exercised by the contract tests in `autotrainer.testing`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from autotrainer.adapter.observer import Observer, Recorder
from autotrainer.adapter.spec import Evaluation, FitRequest, LoopObjects, LoopRequest, Support, Trained, TrainingSpec
from autotrainer.edits import Edit
from autotrainer.errors import InputError
from autotrainer.records.data import ArrayData, Data
from autotrainer.records.nonfinite import FirstNonfinite
from autotrainer.records.signals import LayerInfo, Observation
from autotrainer.records.task import TaskContext

__all__ = ["Backend", "LoopRun", "LoopTrainer", "OpenWatch", "ReplayRun", "Run", "Trainer"]

OpenWatch = Callable[[Any, Any, Any], Recorder | None]
"""Takes model, optimizer and loss of a training that begins; see `Backend.watch_everything`."""


class Run(Protocol):
    """What the core gives a `Trainer` for one training.

    The trainer attaches the backend's observer (``run.monitor.attach(observe(...))``); the core closes the monitor
    when `Trainer.train` has returned or raised.
    """

    @property
    def monitor(self) -> Recorder:
        """Takes what the backend's observer sees."""

    paused: bool
    """Whether the training that `end_epoch` has just ended may go on later: see `Trained.paused`."""

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
            True to go on, False to end the training here, or to pause it: the trainer returns what it has.
        """


class LoopRun(Protocol):
    """What the core gives a `LoopTrainer` for one training."""

    @property
    def monitor(self) -> Recorder:
        """Takes what the backend's observer sees."""

    suspect: bool
    """Whether values are known to be not finite: where weights are so too, the loader is to yield no more batches."""

    def start(self, context: TaskContext, operations: float) -> None:
        """Take the context of the training with its edits, and operations of one forward pass of one sample."""

    def spend(self, samples: int, *, training: bool) -> bool:
        """Account for a batch that is about to be used; False if the budget does not allow it."""


class ReplayRun(Run, Protocol):
    """A run that looks for the first value that is not finite."""

    first: int
    """First step to check."""
    found: FirstNonfinite | None
    """What was found: the trainer sets it, and is given no more work from then on."""
    steps: int
    """Training steps that were accounted for."""


class Trainer(ABC):
    """Runs trainings of one given model, each from the same pristine start; the given objects stay unchanged."""

    context: TaskContext
    """The training as given."""
    first: bool = True
    """Whether the next training is the first one: what the user gave for that alone, such as Keras callbacks, runs."""
    resumable: bool = False
    """Whether a training that is paused at an epoch's end, while others are run, can go on as if nothing had been."""

    @abstractmethod
    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not."""

    def identity(self) -> Mapping[str, Any]:
        """Return what the training as given is made of, by name: see `autotrainer.workers.fingerprint.digest`."""
        return {}

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

    def search(self, spec: TrainingSpec, run: ReplayRun) -> None:
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


class LoopTrainer(ABC):
    """Makes the objects of trainings that the user's own loop runs, each from the same start.

    The first training runs with the user's own objects, unchanged and with the random states as they are; every other
    one with copies of their start, and with the random states of the beginning, or with those of the point kept where
    its recipe begins later.
    """

    given: LoopObjects
    """The user's own objects."""

    @abstractmethod
    def supports(self, edit: Edit) -> Support:
        """Say whether a training with this edit can be run, and why not. Asked once the first training has ended."""

    @abstractmethod
    def begin(self, spec: TrainingSpec, run: LoopRun) -> LoopObjects:
        """Return the objects of a training, watched by ``run.monitor``; those of the one before raise `StateError`.

        Raises:
            ConfigError: If an edit can't be applied.
            InputError: If the objects do not belong together.
        """

    @abstractmethod
    def keep_point(self, epoch: int) -> bool:
        """Keep the training as given as it is right before an epoch, for trainings that begin there; the latest only.

        Returns:
            False where it can't be kept; the point before it is then the latest still.
        """

    @abstractmethod
    def begin_epoch(self, epoch: int) -> None:
        """Say that an epoch begins."""

    @abstractmethod
    def settle(self) -> bool:
        """Account for what was trained without the loader, and say whether all weights are finite."""

    @abstractmethod
    def overruled(self) -> str:
        """Say, after `settle`, which edit the user's loop keeps from being in force, and why; else an empty text."""

    @abstractmethod
    def end_epoch(self, badness: float) -> bool:
        """Do what the edits want done at the end of an epoch, after `settle`.

        Args:
            badness: The score, lower being better; NaN if there is none.

        Returns:
            Whether to go on.
        """

    @abstractmethod
    def end(self) -> Trained:
        """Say that the present training has ended, and return it."""

    @abstractmethod
    def stand_in(self, loss: float) -> AbstractContextManager[tuple[Trainer, Trained] | None]:
        """Return what can run the training as given by itself, and a copy of what came out of it, to ask about it.

        All random states, those of the data too, are put back in the end.

        Args:
            loss: The first loss of the training in the user's loop.

        Returns:
            None where it would not do what the user's loop does: its first batch gives another loss.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the user's objects back to the user: nothing raises any more."""


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
    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, **plan: Any) -> Observer:
        """Attach to a training that the user runs.

        Args:
            model: The model.
            optimizer: Optimizer, sequence of optimizers, or None.
            loss_fn: Loss module or callable, or None.
            monitor: Takes what is observed: `Recorder.begin`, `Recorder.record`, `Recorder.advance`,
                `Recorder.end_epoch`.
            **plan: ``epochs`` and ``steps``, the planned length, or None.

        Returns:
            What detaches everything again.

        Raises:
            InputError: If the objects do not belong together.
        """

    def watch_everything(self, open_watch: OpenWatch) -> AbstractContextManager[None]:
        """Return a context in which each training of this framework is watched without being told to.

        Nothing may change the trainings, and nothing that goes wrong may reach them.

        Args:
            open_watch: Called with model, optimizer and loss, as `observe` takes them, where a training begins.
                Returns the monitor; None for a training that is to be left alone.
        """
        return nullcontext()

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

    def loop(self, request: LoopRequest) -> LoopTrainer:
        """Prepare trainings in the user's own loop.

        Raises:
            InputError: If the framework has no loops of the user's own, or the objects can't be used together.
        """
        raise InputError(f"Loop is for PyTorch: with a {type(request.model).__name__} use autotrainer.fit or watch")

    @abstractmethod
    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return a fresh model and an optimizer with the edits applied; the given ones are not to be used further.

        Raises:
            ConfigError: If an edit can't be applied to this model.
        """

    def patch(self, edit: Edit, edits: Sequence[Edit] = ()) -> Sequence[str]:
        """Return the lines of code to paste into the user's training script for an edit; none by default.

        Lines that are not comments run as they stand; what has to be done by hand is a comment. Nothing imports the
        framework: a plan can be printed where it is not installed.

        Args:
            edit: The edit.
            edits: All edits of its plan, where some are written together, such as a warm-up and a decay.

        Raises:
            ConfigError: If this backend does not know such an edit.
        """
        return ()

    def process_settings(self) -> dict[str, Any]:
        """Return settings of this process that trainings in another one need to come out the same: `adopt_settings`."""
        return {}

    def adopt_settings(self, values: Mapping[str, Any]) -> None:
        """Take the settings of another process, before the framework is used in this one."""
        return None

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
