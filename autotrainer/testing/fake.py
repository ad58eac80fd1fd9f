"""A backend whose trainings follow a script: tests the core without any framework."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.backend import Backend
from autotrainer.adapter.observer import Observer, Recorder
from autotrainer.adapter.spec import (
    Evaluation,
    FitRequest,
    PausedTraining,
    Support,
    SupportLevel,
    Trained,
    TrainingSpec,
)
from autotrainer.adapter.trainer import Run, Trainer
from autotrainer.edits import Edit, SetLearningRate
from autotrainer.records.data import ArrayData, Data, StreamData
from autotrainer.records.signals import LayerInfo, Observation
from autotrainer.records.task import LossInfo, OptimizerInfo, TaskContext

__all__ = ["FakeBackend", "FakeModel", "FakeTrainer", "Outcome"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scripted training.

    Attributes:
        accuracy: Share of rows that it predicts correctly in the second half of its epochs; 0 before that.
        values: Further values of each epoch, by name, for the rules of a test.
        operations: Operations of a forward pass of one sample.
        raises: Exceptions raised at the beginning of epochs, by epoch.
        nonfinite: Whether all predictions are NaN.
        early: Whether it predicts as well in the first half of its epochs.
    """

    accuracy: float = 1.0
    values: Mapping[str, float] = field(default_factory=dict)
    operations: float = 1.0
    raises: Mapping[int, BaseException] = field(default_factory=dict)
    nonfinite: bool = False
    early: bool = False


@dataclass
class FakeModel:
    """A model whose trainings follow a script.

    Attributes:
        script: Edits in force -> outcome of the training.
        refuses: Edit classes that are not supported.
        edits: Edits that it was trained with; set by the training.
        epochs: Number of epochs that it was trained for.
    """

    script: Callable[[tuple[Edit, ...]], Outcome]
    refuses: tuple[type[Edit], ...] = ()
    edits: tuple[Edit, ...] = ()
    epochs: int = 0


class FakeBackend(Backend):
    """Backend of `FakeModel`. Data are arrays, or a list of (inputs, targets) batches as a stream.

    Attributes:
        restored: How often the random state was restored.
    """

    name = "fake"
    package = "autotrainer"

    def __init__(self) -> None:
        self.restored = 0

    def accepts(self, model: Any) -> bool:
        """Return whether it is a `FakeModel`."""
        return isinstance(model, FakeModel)

    def layers(self, model: Any) -> tuple[LayerInfo, ...]:
        """Return two dense layers."""
        return (
            LayerInfo("hidden", "dense", "relu", 4, 8),
            LayerInfo("out", "dense", "sigmoid", 1, 5, hidden=False),
        )

    def observe(self, model: Any, optimizer: Any, loss_fn: Any, monitor: Recorder, **plan: Any) -> Observer:
        """Not supported: only `fit` trains a `FakeModel`.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a FakeModel is only trained by fit")

    def probe(
        self, model: Any, data: Any, loss: Any, optimizer: Any, batches: int
    ) -> tuple[TaskContext, list[Observation]]:
        """Return the context, and no observations."""
        return TaskContext("fake", "fake", layers=self.layers(model)), []

    def trainer(self, request: FitRequest) -> Trainer:
        """Prepare managed trainings."""
        return FakeTrainer(request, self.layers(request.model))

    def apply(self, edits: Sequence[Edit], model: Any, optimizer: Any) -> tuple[Any, Any]:
        """Return a copy of the model that records the edits."""
        return replace(model, edits=tuple(edits)), optimizer

    def preserve_random_state(self) -> AbstractContextManager[None]:
        """Restore NumPy's global random state on exit."""

        @contextmanager
        def preserved() -> Iterator[None]:
            state = np.random.get_state()
            try:
                yield
            finally:
                np.random.set_state(state)
                self.restored += 1

        return preserved()

    def save_model(self, model: Any, folder: Path) -> Path:
        """Write the edits as text."""
        path = folder / "model.txt"
        path.write_text(repr(model.edits), encoding="utf-8")
        return path


class FakeTrainer(Trainer):
    """Runs scripted trainings, with the calls of a real trainer.

    Args:
        request: The request to `fit`; its loss is not used.
        layers: Layers of the context.
    """

    resumable = True

    def __init__(self, request: FitRequest, layers: tuple[LayerInfo, ...]) -> None:
        self.request = request
        self._model: FakeModel = request.model if isinstance(request.model, FakeModel) else request.model()
        self.context = TaskContext(
            "fake",
            "fake",
            LossInfo("bce", "binary_cross_entropy", "probabilities"),
            OptimizerInfo("sgd", 0.1),
            layers,
            "sigmoid",
            1,
            planned_epochs=request.epochs,
            train_rows=request.train.rows if isinstance(request.train, ArrayData) else None,
        )

    def supports(self, edit: Edit) -> Support:
        """Refuse the edits that the model refuses."""
        if isinstance(edit, self._model.refuses):
            return Support(SupportLevel.NONE, f"this model refuses {type(edit).__name__}")
        return Support(SupportLevel.REBUILD)

    def train(self, spec: TrainingSpec, run: Run) -> Trained:
        """Follow the script."""
        outcome = self._model.script(spec.edits)
        model = replace(self._model, edits=spec.edits)

        def predict(targets: NDArray[Any]) -> NDArray[np.float64]:
            correct = np.arange(len(targets)) < outcome.accuracy * len(targets) - 1e-9
            learned = outcome.early or model.epochs >= spec.epochs / 2
            outputs = np.where(correct & learned, targets.reshape(-1), 1 - targets.reshape(-1)).astype(np.float64)
            return np.full_like(outputs, np.nan) if outcome.nonfinite else outputs

        def evaluate(data: Data) -> Evaluation:
            targets = np.concatenate([batch for _, batch in _batches(data, 32)])
            outputs = predict(targets)
            error_rate = float(np.mean(np.abs(outputs - targets.reshape(-1))))
            return Evaluation(outputs, targets, math.nan if outcome.nonfinite else error_rate)

        trained = Trained(model, "optimizer", spec.edits, predict, evaluate)
        run.keep(trained)
        rates = [edit.value for edit in spec.edits if isinstance(edit, SetLearningRate)]
        rate = rates[-1] if rates else self.context.optimizer.learning_rate
        optimizer = replace(self.context.optimizer, learning_rate=rate)
        run.start(replace(self.context, optimizer=optimizer), outcome.operations)

        def epochs() -> Generator[None]:
            for epoch in range(spec.epochs):
                if epoch in outcome.raises:
                    raise outcome.raises[epoch]
                batches, done = self._epoch(run)
                if epoch and not batches:
                    break
                model.epochs = epoch + 1
                rows = sum(len(batch) for _, batch in _batches(self.request.validation, 32))
                evaluation = evaluate(self.request.validation) if run.spend(rows, training=False) else None
                loss = math.nan if outcome.nonfinite else 1 - outcome.accuracy
                goes_on = run.end_epoch(epoch, {"loss": loss, **outcome.values}, evaluation)
                if not done or not (goes_on or run.paused):
                    break
                if not goes_on:
                    yield

        paused = PausedTraining(epochs())
        trained.paused = paused if paused.go_on() else None
        return trained

    def _epoch(self, run: Run) -> tuple[int, bool]:
        """Return the number of batches trained, and whether the budget allowed all of them."""
        done = 0
        for _, targets in _batches(self.request.train, self.request.batch_size):
            if not run.spend(len(targets), training=True):
                return done, False
            done += 1
        return done, True


def _batches(data: Data, size: int) -> Iterator[tuple[Any, NDArray[Any]]]:
    if isinstance(data, StreamData):
        yield from data.source
        return
    for begin in range(0, data.rows, size):
        rows = np.arange(begin, min(begin + size, data.rows))
        yield data.take(rows).inputs, data.targets[rows]
