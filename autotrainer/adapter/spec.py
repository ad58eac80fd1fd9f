"""What the core and a backend exchange about managed trainings: what is wanted, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

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
"""Edits that leave nothing of others that came before them."""


class SupportLevel(StrEnum):
    """How a backend can apply an edit: to a running training, by building it anew, or not at all."""

    LIVE = "live"
    REBUILD = "rebuild"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Support:
    """Answer of `Trainer.supports`: the level, and the reason where it is `SupportLevel.NONE`."""

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
        start: Epoch in which it begins, >= 0: those before it run as given, without the edits. Only a `LoopTrainer`
            can begin later than in epoch 0.
    """

    epochs: int
    seed: int
    edits: tuple[Edit, ...] = ()
    rehearsal: bool = False
    start: int = 0

    def with_edits(self, edits: Sequence[Edit]) -> Self:
        """Return the recipe with more edits.

        A later edit replaces an earlier one of its kind, for the same layers where it names layers. Another
        optimizer replaces the settings of the one before it too, one schedule the other, and another loss, which takes
        targets of any form, what gave them to the one before it. `ExtendTraining` sets the epochs.
        """
        places = {(type(e), getattr(e, "layers", None)) for e in edits}
        for kind, others in _REPLACES.items():
            if any(isinstance(e, kind) for e in edits):
                places |= {(other, None) for other in others}
        kept = tuple(e for e in self.edits if (type(e), getattr(e, "layers", None)) not in places)
        epochs = [e.epochs for e in edits if isinstance(e, ExtendTraining)]
        return replace(self, edits=kept + tuple(edits), epochs=epochs[-1] if epochs else self.epochs)


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


class PausedTraining:
    """A training that can be paused after epochs; the model is that of `Trained`.

    Args:
        course: Trains as it is iterated; yields where the run is paused.
    """

    def __init__(self, course: Generator[None]) -> None:
        self._course = course

    def go_on(self) -> bool:
        """Train until the run ends or pauses it.

        Returns:
            Whether it is paused.

        Raises:
            Exception: Whatever the framework or the user's code raises.
        """
        return next(self._course, self) is None

    def close(self) -> None:
        """Leave it as it is, for good: take everything off the model and the data that was put there."""
        self._course.close()


@dataclass(slots=True)
class Trained:
    """A finished managed training.

    Attributes:
        model: The trained model, in evaluation mode.
        optimizer: The optimizer that trained it.
        edits: The edits in force, with numbers that were fitted on the data filled in.
        predict: inputs (as in the data) -> raw outputs, shape (rows, ...).
        evaluate: data -> `Evaluation`.
        paused: What goes on with the training, where its run is paused; or None.
    """

    model: Any
    optimizer: Any
    edits: tuple[Edit, ...]
    predict: Callable[[Any], NDArray[np.float64]]
    evaluate: Callable[[Data], Evaluation]
    paused: PausedTraining | None = None


@dataclass(frozen=True, slots=True)
class LoopRequest:
    """What `autotrainer.Loop` was given, checked and normalized.

    Attributes:
        model: Model of the framework.
        optimizer: Optimizer over its parameters.
        loss_fn: Loss module or callable(outputs, targets).
        loader: Training batches, readable more than once.
        epochs: Planned epochs, >= 1.
        scheduler: Scheduler of the optimizer, callable(optimizer) that makes one, or None.
        scaler: Gradient scaler, or None.
        keep: Layer-name patterns (fnmatch) that nothing may touch.
        seed: Seed of weights that repairs draw.
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
    """The objects of one training in the user's own loop.

    Attributes:
        model: The model.
        optimizer: Its optimizer.
        loss_fn: The loss.
        loader: The training batches.
        scheduler: The user's scheduler, or None.
        scaler: The gradient scaler, or None.
        edits: The edits in force, with numbers that were fitted on the data filled in.
    """

    model: Any
    optimizer: Any
    loss_fn: Any
    loader: Any
    scheduler: Any = None
    scaler: Any = None
    edits: tuple[Edit, ...] = ()
