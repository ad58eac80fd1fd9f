"""The training loop of managed trainings."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.adapter.trainer import Run
from autotrainer.backends.pytorch.data.batches import Batch, Batches, LoaderBatches
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.optim.clipping import clip
from autotrainer.backends.pytorch.optim.schedulers import step_scheduler
from autotrainer.backends.pytorch.runtime.random_state import mix, seed_all
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callbacks import TrainingCallback
from autotrainer.backends.pytorch.training.evaluation import evaluate
from autotrainer.edits import ClipGradients
from autotrainer.errors import InputError

__all__ = ["Training", "unobserved_copy"]


@dataclass(slots=True)
class Training:
    """A training that is ready to run.

    Attributes:
        model: The model, with its edits.
        optimizer: The optimizer over its parameters.
        objective: What is minimized.
        evaluation_objective: The user's loss, for validation; its ``otherwise`` is the loss that is trained on instead.
        train: Training data.
        validation: Validation data.
        epochs: Planned epochs.
        seed: Seed of shuffling and dropout.
        scheduler: Scheduler of the user or of an edit, stepped after each epoch; or None.
        clip: How gradients are clipped, or None.
        patience: Epochs to wait for a better validation loss before stopping with the best weights, or None.
        callbacks: Run before and after steps and at the end of epochs.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    evaluation_objective: Objective
    train: Batches
    validation: Batches
    epochs: int
    seed: int
    scheduler: Any = None
    clip: ClipGradients | None = None
    patience: int | None = None
    callbacks: tuple[TrainingCallback, ...] = ()

    def run(self, run: Run) -> Generator[None]:
        """Train until the end, or until the core or the budget ends it. Leaves the model in evaluation mode.

        Yields:
            Where the run is paused, with model and data as if the training had ended; continues from there.
        """
        best = BestWeights(self.patience)
        try:
            for epoch in range(self.epochs):
                seed_all(mix(self.seed, epoch))
                for callback in self.callbacks:
                    callback.begin_epoch(epoch)
                loss, steps, complete = self._epoch(epoch, run)
                if not steps and epoch:
                    break
                for callback in self.callbacks:
                    callback.end_epoch(epoch, loss)
                evaluation = evaluate(self.model, self.evaluation_objective, self.validation, run)
                if evaluation is not None:
                    best.update(self.model, evaluation.training_loss)
                values = {"loss": loss} if evaluation is None else {"loss": loss, "val_loss": evaluation.training_loss}
                continues = run.end_epoch(epoch, values, evaluation)
                if not complete or best.exhausted or not (continues or run.paused):
                    break
                if not continues:
                    with self._paused(best):
                        yield
                step_scheduler(self.scheduler, math.nan if evaluation is None else evaluation.training_loss)
        finally:
            for callback in self.callbacks:
                callback.close()
            best.restore(self.model)
            self._reset()

    def _reset(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        if isinstance(self.train, LoaderBatches):
            self.train.rewind()

    @contextmanager
    def _paused(self, best: BestWeights) -> Iterator[None]:
        """Leave model and data as at the end of a training, and restore them afterwards."""
        generators = self.train.generators() if isinstance(self.train, LoaderBatches) else None
        with best.restored(self.model):
            self._reset()
            yield
        if generators is not None:
            generators.restore()

    def _epoch(self, epoch: int, run: Run) -> tuple[float, int, bool]:
        """Train one epoch.

        Returns:
            The mean loss (NaN without any step), the number of steps, and whether the budget allowed all of them.
        """
        self.model.train()
        total: Any = 0.0
        rows = steps = 0
        for batch in self.train.read(epoch, seed=self.seed):
            if not run.spend(batch.rows, training=True):
                return float(total) / rows if rows else math.nan, steps, False
            loss = self._step(batch, run)
            steps += 1
            if loss is not None:
                total = total + loss * batch.rows
                rows += batch.rows
        return float(total) / rows if rows else math.nan, steps, True

    def _step(self, batch: Batch, run: Run) -> Tensor | None:
        """Take one optimizer step and return the batch's loss, detached; None for a step that was skipped."""
        if isinstance(self.optimizer, torch.optim.LBFGS):
            first: list[Tensor] = []

            def closure() -> Tensor:
                loss = self._backward(batch, run)
                first.append(loss)
                return loss

            self._prepare_step()
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
            loss, stepped = first[0], True
        else:
            loss, stepped = self._backward(batch, run), self._prepare_step()
            if stepped:
                self.optimizer.step()
        for callback in self.callbacks:
            callback.after_step()
        return loss if stepped else None

    def _prepare_step(self) -> bool:
        """Let each callback prepare the step, and return whether all of them allow it."""
        allowed = [callback.before_step() for callback in self.callbacks]  # every callback runs
        return all(allowed)

    def _backward(self, batch: Batch, run: Run) -> Tensor:
        self.optimizer.zero_grad()
        loss, outputs, targets = self.objective(self.model, batch)
        if not loss.requires_grad:
            raise InputError(
                "the loss has no gradient: compute it from the model's outputs with operations of torch, without "
                "detach(), item() or NumPy"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        for callback in self.callbacks:
            callback.after_backward(loss.detach())
        if self.clip is not None:
            clip(self.model.parameters(), self.clip)
        loss = loss.detach()
        if self.objective.step is not None:
            run.monitor.log(loss=loss, outputs=outputs, targets=targets)
        return loss


def unobserved_copy(module: nn.Module | None) -> nn.Module | None:
    """Return a copy of a loss whose calls are not observed; the loss itself if it has trainable parameters."""
    if module is None or next(module.parameters(), None) is not None:
        return module
    return copy.deepcopy(module)
