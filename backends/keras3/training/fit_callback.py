"""The Keras callback of a managed training: budget, evaluation at the end of epochs, plateau, early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from autotrainer.adapter.spec import Evaluation
from autotrainer.adapter.trainer import Run
from autotrainer.backends.keras3.data.batches import ArrayBatches, StreamBatches
from autotrainer.backends.keras3.model.masks import with_mask
from autotrainer.backends.keras3.training.callbacks import TrainingCallback
from autotrainer.backends.keras3.training.evaluation import Evaluator
from autotrainer.backends.keras3.training.pausing import Checkpoint
from autotrainer.edits import ReduceOnPlateau, StopEarly
from autotrainer.errors import DataError
from autotrainer.records.data import Data

__all__ = ["EndOfTraining", "FitCallback"]


class EndOfTraining(Exception):  # noqa: N818  (not an error: it leaves `fit` before a batch that the budget does not allow)
    """Ends a training before its next batch."""


class FitCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Accounts for each batch before it runs, and evaluates at the end of each epoch.

    Args:
        run: The core's side of the training.
        evaluator: Evaluates the model.
        batches: The training batches.
        validation: Validation data.
        validation_steps: Batches of a validation stream, or None for all.
        plateau: Reduces the learning rate, or None.
        stop: Stops early and keeps the best weights, or None.
        callbacks: Callbacks of edits.
        with_metrics: Also add ``val_`` values to the logs, for the user's callbacks.
        pauses: Whether the training can pause and continue with another `fit`.
        values: Returns the numbers in the logs of an epoch by their usual names.

    Attributes:
        steps: Batches so far.
        epochs: Epochs so far.
        paused: Whether the last `fit` has ended in a pause.
    """

    def __init__(
        self,
        run: Run,
        evaluator: Evaluator,
        batches: ArrayBatches | StreamBatches,
        validation: Data,
        *,
        validation_steps: int | None = None,
        plateau: ReduceOnPlateau | None = None,
        stop: StopEarly | None = None,
        callbacks: Sequence[TrainingCallback] = (),
        with_metrics: bool = False,
        pauses: bool = False,
        values: Callable[[Mapping[str, Any]], dict[str, float]],
    ) -> None:
        super().__init__()
        self._run, self._evaluator, self._batches, self._validation = run, evaluator, batches, validation
        self._validation_steps, self._with_metrics = validation_steps, with_metrics
        self._plateau, self._stop, self._values, self._callbacks = plateau, stop, values, callbacks
        self._pauses = pauses
        self.steps = self.epochs = self._epoch = self._epoch_start = 0
        self.paused = self._had_batch = False
        self._checkpoint: Checkpoint | None = None
        self._best = {"plateau": math.inf, "stop": math.inf}
        self._epochs_waited = {"plateau": 0, "stop": 0}
        self._best_weights: list[Any] | None = None
        self._floor = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        """Store the floor of the learning rate; after a pause, restore the checkpoint."""
        self.paused = False
        if self._checkpoint is not None:
            self._checkpoint.restore()
            self._checkpoint = None
        elif self._plateau is not None:
            self._floor = self._plateau.floor * float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Register the start of the epoch."""
        self._epoch, self._epoch_start, self._had_batch = epoch, self.steps, False
        for callback in self._callbacks:
            callback.begin_epoch(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Account for the batch; leave `fit` if the budget does not allow it."""
        if not self._run.spend(self._batches.rows_of(self.steps), training=True):
            raise EndOfTraining
        self.steps += 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Register that there was a batch: Keras calls `on_train_batch_begin` even if no batch follows."""
        self._had_batch = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Evaluate, report to the core, and apply the plateau and early-stopping edits."""
        logs = {} if logs is None else logs
        if not self._had_batch:
            raise DataError(
                f"train_data gave no batch in epoch {epoch}: it can be read only once; give arrays, or an "
                "iterable that yields its batches each time it is iterated"
            )
        continues, wants_to_continue = self._close_epoch(logs)
        if not continues:
            self.model.stop_training = True
        self.epochs = epoch + 1
        self.paused = wants_to_continue and not continues and self._pauses and self._run.paused
        if self.paused:
            self._checkpoint = Checkpoint(self.model)

    def end_early(self) -> None:
        """Evaluate a training that the budget ended within an epoch."""
        if self.steps > self._epoch_start:
            logs = {n: float(keras.ops.convert_to_numpy(v)) for n, v in self.model.get_metrics_result().items()}
            self._close_epoch(logs)

    def restore_best(self) -> None:
        """Restore the weights of the best epoch, if there is a `StopEarly`."""
        if self._best_weights is not None:
            self.model.set_weights(self._best_weights)

    def _close_epoch(self, logs: dict[str, Any]) -> tuple[bool, bool]:
        """Return whether to continue, and whether to continue if it were not for the core."""
        values = self._values(logs)
        for callback in self._callbacks:
            callback.end_epoch(self._epoch, values.get("loss", math.nan))
        evaluation = self._evaluator.evaluate(
            self._validation, lambda rows: self._run.spend(rows, training=False), self._validation_steps
        )
        if evaluation is not None and self._with_metrics:
            logs.update(self._validation_logs(evaluation))
        self._run.monitor.advance(self.steps - 1)
        continues = self._run.end_epoch(self._epoch, values, evaluation)
        if evaluation is None:
            return False, False
        loss = evaluation.training_loss if not math.isnan(evaluation.training_loss) else values.get("loss", math.nan)
        wants_to_continue = self._apply_loss_edits(loss)
        return wants_to_continue and continues, wants_to_continue

    def _apply_loss_edits(self, loss: float) -> bool:
        if self._plateau is not None and self._epochs_since_best("plateau", loss) >= self._plateau.patience:
            rate = self.model.optimizer.learning_rate
            lower = max(float(keras.ops.convert_to_numpy(rate)) * self._plateau.factor, self._floor)
            self.model.optimizer.learning_rate = lower
            self._epochs_waited["plateau"] = 0
        if self._stop is None:
            return True
        waited = self._epochs_since_best("stop", loss)
        if waited == 0 or self._best_weights is None:
            self._best_weights = [np.array(w) for w in self.model.get_weights()]
        return waited < self._stop.patience

    def _epochs_since_best(self, edit: str, loss: float) -> int:
        """Return the epochs since the best loss."""
        better = loss < self._best[edit]
        self._best[edit] = loss if better else self._best[edit]
        self._epochs_waited[edit] = 0 if better else self._epochs_waited[edit] + 1
        return self._epochs_waited[edit]

    def _validation_logs(self, evaluation: Evaluation) -> dict[str, float]:
        """Return ``val_loss`` and the values of the compiled metrics on validation data."""
        logs = {"val_loss": evaluation.training_loss} if evaluation.loss_known else {}
        metrics = self.model._compile_metrics
        if metrics is not None and metrics.built:
            metrics.reset_state()
            targets, outputs = evaluation.targets, keras.ops.convert_to_tensor(evaluation.outputs.astype("float32"))
            if evaluation.counted is not None:
                counts = (evaluation.counted >= 0).reshape(evaluation.outputs.shape[:-1])
                targets = np.where(evaluation.counted >= 0, targets, 0)  # a metric may refuse the masked index
                outputs = with_mask(outputs, keras.ops.convert_to_tensor(counts))
            metrics.update_state(targets, outputs)
            logs.update({f"val_{n}": float(keras.ops.convert_to_numpy(v)) for n, v in metrics.result().items()})
            metrics.reset_state()
        return logs
