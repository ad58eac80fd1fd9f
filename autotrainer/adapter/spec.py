"""Data that the core and a backend exchange about managed trainings: requests, specs and results."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from autotrainer.edits import (
    DecayRate,
    Edit,
    EncodeTargets,
    ExtendTraining,
    ReduceOnPlateau,
    ReshapeTargets,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetWeightDecay,
    SwapOptimizer,
    TuneAdam,
)
from autotrainer.records.data import Data

__all__ = [
    "ConstantLosses",
    "Evaluation",
    "FitRequest",
    "LoopObjects",
    "LoopRequest",
    "PausedTraining",
    "Support",
    "SupportLevel",
    "Trained",
    "TrainingSpec",
]


_REPLACES: Mapping[type[Edit], tuple[type[Edit], ...]] = {
    SwapOptimizer: (SetLearningRate, SetMomentum, SetWeightDecay, TuneAdam),
    DecayRate: (ReduceOnPlateau,),
    ReduceOnPlateau: (DecayRate,),
    SetLoss: (EncodeTargets, ReshapeTargets),
}
"""Edits that make earlier edits of other kinds void."""


class SupportLevel(StrEnum):
    """How a backend can apply an edit: to a running training, only by rebuilding it, or not at all."""

    LIVE = "live"
    REBUILD = "rebuild"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Support:
    """Result of `Trainer.supports`: the level, and the reason if it is `SupportLevel.NONE`; true for other levels."""

    level: SupportLevel
    reason: str = ""

    def __bool__(self) -> bool:
        return self.level is not SupportLevel.NONE


@dataclass(frozen=True, slots=True)
class FitRequest:
    """The arguments of `autotrainer.fit`, checked and normalized.

    Attributes:
        model: Model of the framework, or zero-argument callable that builds one.
        train: Training data.
        validation: Validation data.
        loss: Loss of the framework (module, callable, name), or None for a compiled Keras model.
        optimizer: Optimizer over the model's parameters, callable(params), name, or None.
        epochs: Planned epochs, >= 1.
        batch_size: Samples per batch, for array data.
        step: PyTorch: callable(model, batch) -> loss or (loss, outputs, targets); else None.
        scheduler: PyTorch: callable(optimizer) -> scheduler; else None.
        fit_args: Keras: further arguments of ``Model.fit``.
        keep: Layer-name patterns (fnmatch) that nothing may touch.
        seed: Seed of every training.
        test: Test data, or None.
        judged_on: What trainings are judged on: ``validation`` data, or the ``training`` rows if none of them can be
            spared; `validation` has the same rows then.
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
    test: Data | None = None
    judged_on: Literal["validation", "training"] = "validation"


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """Specification of one training: the original one with edits.

    Attributes:
        epochs: Epochs to train.
        seed: Seed of shuffling, dropout and initial weights.
        edits: Changes to the original training, in the order in which they were chosen.
        rehearsal: Whether it is a short diagnostic run, without the user's callbacks.
        start: Epoch in which it starts, >= 0; the epochs before run without the edits. Only a `LoopTrainer` can start
            later than in epoch 0.
    """

    epochs: int
    seed: int
    edits: tuple[Edit, ...] = ()
    rehearsal: bool = False
    start: int = 0

    def with_edits(self, edits: Sequence[Edit]) -> Self:
        """Return the spec with more edits.

        A later edit replaces an earlier one of its kind (for the same layers, if it names layers). A new optimizer also
        replaces settings of the previous one, a schedule the other schedule, and a new loss, which takes targets of any
        form, the conversion of targets for the previous one. `ExtendTraining` sets the epochs.
        """
        replaced = {(type(e), getattr(e, "layers", None)) for e in edits}
        for kind, others in _REPLACES.items():
            if any(isinstance(e, kind) for e in edits):
                replaced |= {(other, None) for other in others}
        kept = tuple(e for e in self.edits if (type(e), getattr(e, "layers", None)) not in replaced)
        epochs = [e.epochs for e in edits if isinstance(e, ExtendTraining)]
        return replace(self, edits=kept + tuple(edits), epochs=epochs[-1] if epochs else self.epochs)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Predictions on a data set.

    Attributes:
        outputs: Raw outputs, row by row.
        targets: Targets, row by row, in the user's form.
        loss: Mean of the original loss, by which all attempts are compared.
        trained_loss: Mean of the loss that an attempt minimizes instead; None if it is the same.
        counted: Targets with -100 as the class index of masked ones; None if nothing is masked.
        loss_known: Whether there is a loss to compute: False where only a training step of the user's has one.
    """

    outputs: NDArray[Any]
    targets: NDArray[Any]
    loss: float
    trained_loss: float | None = None
    counted: NDArray[Any] | None = None
    loss_known: bool = True

    @property
    def training_loss(self) -> float:
        """The loss that the training minimizes."""
        return self.loss if self.trained_loss is None else self.trained_loss


ConstantLosses = tuple[NDArray[np.float64], NDArray[np.float64], int]
"""See `Trained.losses_with_constant_outputs`."""


class PausedTraining:
    """A training that can be paused at the end of an epoch and continued later; it trains the model of `Trained`.

    Args:
        epochs: Generator that trains when iterated, and yields whenever the run is paused.
    """

    def __init__(self, epochs: Generator[None]) -> None:
        self._epochs = epochs

    def go_on(self) -> bool:
        """Continue until the run ends or pauses the training.

        Returns:
            Whether it is paused.

        Raises:
            Exception: Any exception of the framework or the user's code.
        """
        return next(self._epochs, self) is None

    def close(self) -> None:
        """End the training in its current state, and remove all hooks from model and data."""
        self._epochs.close()


@dataclass(slots=True)
class Trained:
    """A finished managed training.

    Attributes:
        model: The trained model, in evaluation mode.
        optimizer: The optimizer that trained it.
        edits: The active edits, with the values that were fitted to the data.
        predict: Function of inputs (in the form of the data) that returns raw outputs, shape (rows, ...).
        evaluate: Function of data that returns an `Evaluation`.
        paused: Handle to continue the training if it is paused, else None.
        losses_with_mean_outputs: Function of data that returns the loss of each batch, and what it is if the model's
            outputs are replaced by their mean over the batch; both empty if the loss does not call the model as a
            whole. None if the backend can't tell.
        losses_with_constant_outputs: Function of training data and other data that returns the loss of each batch of
            the latter, what it is if the outputs are the constants that minimize the loss on training rows, and the
            operations that their search took; both empty if the loss does not depend on them. None if the backend can't
            tell.
    """

    model: Any
    optimizer: Any
    edits: tuple[Edit, ...]
    predict: Callable[[Any], NDArray[np.float64]]
    evaluate: Callable[[Data], Evaluation]
    paused: PausedTraining | None = None
    losses_with_mean_outputs: Callable[[Data], tuple[NDArray[np.float64], NDArray[np.float64]]] | None = None
    losses_with_constant_outputs: Callable[[Data, Data], ConstantLosses] | None = None


@dataclass(frozen=True, slots=True)
class LoopRequest:
    """The arguments of `autotrainer.Loop`, checked and normalized.

    Attributes:
        model: Model of the framework.
        optimizer: Optimizer over its parameters.
        loss_fn: Loss module or callable(outputs, targets).
        loader: Training batches, re-iterable.
        epochs: Planned epochs, >= 1.
        scheduler: Scheduler of the optimizer, callable(optimizer) that returns one, or None.
        scaler: Gradient scaler, or None.
        keep: Layer-name patterns (fnmatch) that nothing may touch.
        seed: Seed of weights that repairs initialize.
    """

    model: Any
    optimizer: Any
    loss_fn: Any
    loader: Any
    epochs: int
    scheduler: Any = None
    scaler: Any = None
    keep: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LoopObjects:
    """The objects of one training in the user's loop.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: The loss.
        loader: The training batches.
        scheduler: The user's scheduler, or None.
        scaler: The gradient scaler, or None.
        edits: The active edits, with the values that were fitted to the data.
    """

    model: Any
    optimizer: Any
    loss_fn: Any
    loader: Any
    scheduler: Any = None
    scaler: Any = None
    edits: tuple[Edit, ...] = ()
