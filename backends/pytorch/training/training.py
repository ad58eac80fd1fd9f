"""One managed training in PyTorch: the loop, its settings, and evaluation."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from autotrainer.adapter.backend import Run
from autotrainer.adapter.spec import Evaluation
from autotrainer.backends.pytorch.data.batches import Batch, Batches, LoaderBatches, primary_output
from autotrainer.backends.pytorch.data.objective import Objective
from autotrainer.backends.pytorch.model.losses import plain_loss
from autotrainer.backends.pytorch.model.model_calls import call_model
from autotrainer.backends.pytorch.optim.clipping import clip
from autotrainer.backends.pytorch.optim.schedulers import step_scheduler
from autotrainer.backends.pytorch.runtime.random_state import mix, seed_all
from autotrainer.backends.pytorch.training.best_weights import BestWeights
from autotrainer.backends.pytorch.training.callbacks import TrainingCallback
from autotrainer.edits import ClipGradients
from autotrainer.errors import InputError
from autotrainer.training.padding import joined, joined_targets

__all__ = ["Training", "copied", "evaluate", "predict"]


@dataclass(slots=True)
class Training:
    """A training that is ready to run.

    Attributes:
        model: The model, with its edits.
        optimizer: The optimizer over its parameters.
        objective: What is minimized.
        judge: The loss as given, for validation; its ``otherwise`` is the loss that is trained on instead.
        train: Training data.
        validation: Validation data.
        epochs: Planned epochs.
        seed: Seed of shuffling and dropout.
        scheduler: Scheduler of the user's or of an edit, stepped after each epoch; or None.
        clip: How gradients are clipped, or None.
        patience: Epochs to wait for a better validation loss before stopping with the best weights, or None.
        companions: What else has a say before and after steps and at the end of epochs.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    judge: Objective
    train: Batches
    validation: Batches
    epochs: int
    seed: int
    scheduler: Any = None
    clip: ClipGradients | None = None
    patience: int | None = None
    companions: tuple[TrainingCallback, ...] = ()

    def run(self, run: Run) -> Generator[None]:
        """Train to the end, or to where the core or the budget ends it. Leaves the model in evaluation mode.

        Yields:
            Where the run is paused, with everything as if the training had ended; goes on from there.
        """
        best = BestWeights(self.patience)
        try:
            for epoch in range(self.epochs):
                seed_all(mix(self.seed, epoch))
                for companion in self.companions:
                    companion.begin_epoch(epoch)
                loss, steps, whole = self._epoch(epoch, run)
                if not steps and epoch:
                    break
                for companion in self.companions:
                    companion.end_epoch(epoch, loss)
                evaluation = evaluate(self.model, self.judge, self.validation, run)
                if evaluation is not None:
                    best.take(self.model, evaluation.training_loss)
                values = {"loss": loss} if evaluation is None else {"loss": loss, "val_loss": evaluation.training_loss}
                goes_on = run.end_epoch(epoch, values, evaluation)
                if not whole or best.exhausted or not (goes_on or run.paused):
                    break
                if not goes_on:
                    with self._at_rest(best):
                        yield
                step_scheduler(self.scheduler, math.nan if evaluation is None else evaluation.training_loss)
        finally:
            for companion in self.companions:
                companion.close()
            best.restore(self.model)
            self._end()

    def _end(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        if isinstance(self.train, LoaderBatches):
            self.train.rewind()

    @contextmanager
    def _at_rest(self, best: BestWeights) -> Iterator[None]:
        """Leave model and data as at the end of a training, and put them back to where they were."""
        loader = self.train.generators() if isinstance(self.train, LoaderBatches) else None
        with best.restored(self.model):
            self._end()
            yield
        if loader is not None:
            loader.restore()

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
        """Take one optimizer step and return the batch's loss, detached; None for a step that was left out."""
        if isinstance(self.optimizer, torch.optim.LBFGS):
            first: list[Tensor] = []

            def closure() -> Tensor:
                loss = self._backward(batch, run)
                first.append(loss)
                return loss

            self._prepared()
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
            loss, taken = first[0], True
        else:
            loss, taken = self._backward(batch, run), self._prepared()
            if taken:
                self.optimizer.step()
        for companion in self.companions:
            companion.after_step()
        return loss if taken else None

    def _prepared(self) -> bool:
        """Let each companion prepare the step, and say whether all of them let it through."""
        allowed = [companion.before_step() for companion in self.companions]  # each has its say
        return all(allowed)

    def _backward(self, batch: Batch, run: Run) -> Tensor:
        self.optimizer.zero_grad()
        loss, outputs, targets = self.objective(self.model, batch)
        if not loss.requires_grad:
            raise InputError(
                "the loss has no gradient: compute it from the model's outputs by operations of torch, without "
                "detach(), item() or NumPy"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        for companion in self.companions:
            companion.after_backward(loss.detach())
        if self.clip is not None:
            clip(self.model.parameters(), self.clip)
        loss = loss.detach()
        if self.objective.step is not None:
            run.monitor.log(loss=loss, outputs=outputs, targets=targets)
        return loss


def evaluate(model: nn.Module, judge: Objective, batches: Batches, run: Run | None = None) -> Evaluation | None:
    """Evaluate a model in evaluation mode, without gradients.

    Args:
        model: The model. Stays in evaluation mode.
        judge: The loss as given, and ``otherwise`` the one that is trained on instead.
        batches: The data.
        run: Accounts for the work; None for work that does not count.

    Returns:
        Outputs (float64), targets and the mean losses over rows; None if the budget does not allow it. Without
        outputs and targets (``step`` hides them), those have no rows.
    """
    model.eval()
    outputs: list[NDArray[Any]] = []
    targets: list[NDArray[Any]] = []
    total: Any = 0.0
    trained: Any = 0.0
    rows = 0
    with torch.no_grad():
        for batch in batches.read():
            if run is not None and not run.spend(batch.rows, training=False):
                return None
            loss, output, target = judge(model, batch)
            if output is None and batch.targets is not None:
                output, target = call_model(model, batch.inputs), batch.targets
            if isinstance(target, Tensor) and output is not None:
                outputs.append(_host(primary_output(output)))
                targets.append(target.detach().cpu().numpy())
            total = total + loss * (1 if _summed(judge) else batch.rows)
            if judge.otherwise is not None:
                extra = () if batch.weights is None else (batch.weights,)
                trained = trained + judge.otherwise(primary_output(output), target, *extra) * batch.rows
            rows += batch.rows
    course = None if judge.otherwise is None else float(trained) / max(rows, 1)
    return Evaluation(joined(outputs, 0.0), joined_targets(targets), float(total) / max(rows, 1), course)


def predict(model: nn.Module, batches: Iterator[Batch]) -> NDArray[np.float64]:
    """Return the raw outputs of a model in evaluation mode, shape (rows, ...)."""
    model.eval()
    with torch.no_grad():
        return joined([_host(primary_output(call_model(model, batch.inputs))) for batch in batches], 0.0)


def _summed(judge: Objective) -> bool:
    return judge.step is None and getattr(plain_loss(judge.loss), "reduction", "mean") == "sum"


def _host(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()


def copied(module: nn.Module | None) -> nn.Module | None:
    """Return a copy of a loss that nothing observes; the loss itself if it has weights of its own that are trained."""
    if module is None or next(module.parameters(), None) is not None:
        return module
    return copy.deepcopy(module)
