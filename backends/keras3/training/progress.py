"""The course of a managed training inside `fit`: budget, evaluation at the end of epochs, plateau, early stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from autotrainer.adapter.backend import Run
from autotrainer.adapter.spec import Evaluation
from autotrainer.backends.keras3.data.feeding import ArrayFeed, StreamFeed
from autotrainer.backends.keras3.model.masks import with_mask
from autotrainer.backends.keras3.training.callbacks import TrainingCallback
from autotrainer.backends.keras3.training.evaluation import Evaluator
from autotrainer.backends.keras3.training.pausing import PauseState
from autotrainer.edits import ReduceOnPlateau, StopEarly
from autotrainer.errors import DataError
from autotrainer.records.data import Data

__all__ = ["EndOfTraining", "TrainingProgress"]


class EndOfTraining(Exception):  # noqa: N818  (not an error: it leaves `fit` before a batch that can't be paid for)
    """Ends a training before its next batch."""


class TrainingProgress(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that accounts for each batch before it runs and evaluates at the end of each epoch.

    Args:
        run: The core's side of the training.
        evaluator: Evaluates the model.
        feed: The training batches.
        validation: Validation data.
        validation_steps: Batches of a validation stream, or None for all.
        plateau: Reduces the learning rate, or None.
        stop: Stops early and keeps the best weights, or None.
        companions: What else acts at the beginning and end of epochs.
        with_metrics: Also put ``val_`` values into the logs, for callbacks of the user's.
        pauses: Whether the training can go on after a pause, with another `fit`.
        values: Returns what the logs of an epoch say of it.

    Attributes:
        steps: Batches so far.
        epochs: Epochs so far.
        paused: Whether the last `fit` has ended in a pause.
    """

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator,
        feed: ArrayFeed | StreamFeed,
        validation: Data,
        *,
        validation_steps: int | None = None,
        plateau: ReduceOnPlateau | None = None,
        stop: StopEarly | None = None,
        companions: Sequence[TrainingCallback] = (),
        with_metrics: bool = False,
        pauses: bool = False,
        values: Callable[[Mapping[str, Any]], dict[str, float]],
    ) -> None:
        super().__init__()
        self._run, self._evaluator, self._feed, self._validation = run, evaluator, feed, validation
        self._validation_steps, self._with_metrics = validation_steps, with_metrics
        self._plateau, self._stop, self._values, self._companions = plateau, stop, values, companions
        self._pauses = pauses
        self.steps = self.epochs = self._epoch = self._epoch_start = 0
        self.paused = self._trained = False
        self._present: PauseState | None = None
        self._best = {"plateau": math.inf, "stop": math.inf}
        self._waited = {"plateau": 0, "stop": 0}
        self._best_weights: list[Any] | None = None
        self._floor = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Note the initial learning rate; after a pause, put everything back to where it was."""
        self.paused = False
        if self._present is not None:
            self._present.put_back()
            self._present = None
        elif self._plateau is not None:
            self._floor = self._plateau.floor * float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Note where the epoch starts."""
        self._epoch, self._epoch_start, self._trained = epoch, self.steps, False
        for companion in self._companions:
            companion.begin_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Account for the batch; leave `fit` if the budget does not allow it."""
        if not self._run.spend(self._feed.rows_of(self.steps), training=True):
            raise EndOfTraining
        self.steps += 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Note that there was a batch: the beginning of one is told before it is known whether there is another."""
        self._trained = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Evaluate, tell the core, and do what the plateau and early-stopping edits ask for."""
        logs = {} if logs is None else logs
        if not self._trained:
            raise DataError(
                f"train_data gave no batch in epoch {epoch}: it can be read only once; give arrays, or what makes its "
                "batches anew each time that it is iterated"
            )
        goes_on, lasts = self._close_epoch(logs)
        if not goes_on:
            self.model.stop_training = True
        self.epochs = epoch + 1
        self.paused = lasts and not goes_on and self._pauses and self._run.paused
        if self.paused:
            self._present = PauseState(self.model)

    def end_early(self) -> None:
        """Evaluate a training that the budget ended within an epoch."""
        if self.steps > self._epoch_start:
            logs = {n: float(keras.ops.convert_to_numpy(v)) for n, v in self.model.get_metrics_result().items()}
            self._close_epoch(logs)

    def restore_best(self) -> None:
        """Put the weights of the best epoch back, where `StopEarly` asks for it."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)

    def _close_epoch(self, logs: dict[str, Any]) -> tuple[bool, bool]:
        """Return whether to go on, and whether that is so but for the core."""
        values = self._values(logs)
        for companion in self._companions:
            companion.end_epoch(self._epoch, values.get("loss", math.nan))
        found = self._evaluator.evaluate(
            self._validation, lambda rows: self._run.spend(rows, training=False), self._validation_steps
        )
        if found is not None and self._with_metrics:
            logs.update(self._validation_logs(found))
        self._run.monitor.advance(self.steps - 1)
        goes_on = self._run.end_epoch(self._epoch, values, found)
        if found is None:
            return False, False
        judged = found.training_loss if not math.isnan(found.training_loss) else values.get("loss", math.nan)
        lasts = self._stop_or_go(judged)
        return lasts and goes_on, lasts

    def _stop_or_go(self, loss: float) -> bool:
        if self._plateau is not None and self._waits("plateau", loss) >= self._plateau.patience:
            rate = self.model.optimizer.learning_rate
            lower = max(float(keras.ops.convert_to_numpy(rate)) * self._plateau.factor, self._floor)
            self.model.optimizer.learning_rate = lower
            self._waited["plateau"] = 0
        if self._stop is None:
            return True
        waited = self._waits("stop", loss)
        if waited == 0 or self._best_weights is None:
            self._best_weights = [np.array(w) for w in self.model.get_weights()]
        return waited < self._stop.patience

    def _waits(self, what: str, loss: float) -> int:
        """Return the epochs since the best loss."""
        better = loss < self._best[what]
        self._best[what] = loss if better else self._best[what]
        self._waited[what] = 0 if better else self._waited[what] + 1
        return self._waited[what]

    def _validation_logs(self, found: Evaluation) -> dict[str, float]:
        """Return ``val_loss`` and the values of the compiled metrics on validation data."""
        logs = {"val_loss": found.training_loss}
        metrics = self.model._compile_metrics
        if metrics is not None and metrics.built:
            metrics.reset_state()
            targets, outputs = found.targets, keras.ops.convert_to_tensor(found.outputs.astype("float32"))
            if found.counted is not None:
                counts = (found.counted >= 0).reshape(found.outputs.shape[:-1])
                targets = np.where(found.counted >= 0, targets, 0)  # a metric may refuse the index that is masked
                outputs = with_mask(outputs, keras.ops.convert_to_tensor(counts))
            metrics.update_state(targets, outputs)
            logs.update({f"val_{n}": float(keras.ops.convert_to_numpy(v)) for n, v in metrics.result().items()})
            metrics.reset_state()
        return logs
