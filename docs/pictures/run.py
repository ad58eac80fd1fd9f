"""What a picture is made of: a training, what was recorded of it, and the two of them that one picture compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch  # noqa: TID253 - only make_pictures.py imports this file
from torch import nn  # noqa: TID253

import autotrainer
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from pictures.parts import Data, mlp, rows, sgd

__all__ = ["Curve", "Loop", "Picture", "Repaired", "Run", "Trained"]

Curve = Callable[[RunHistory], tuple[Sequence[float], Sequence[float]]]


def _losses(history: RunHistory) -> tuple[Sequence[float], Sequence[float]]:
    return history.losses


@dataclass(frozen=True, slots=True)
class Loop:
    """How a training goes on from step to step; every field is what an ordinary loop has, unless a fault changes it.

    Attributes:
        zero_grad: Whether gradients are reset.
        shuffled: Whether rows are drawn in another order in each epoch.
        trains: Whether the model is put into training mode before each epoch.
        evaluates: Whether the model is put into evaluation mode before the evaluation at the end of each epoch.
        singly: Whether it is evaluated on one row at a time.
        accumulated: Number of batches whose gradients a step adds up.
        divided: Whether the loss of each is divided by their number.
        scaled: Whether a scaler of gradients, as for half precision, is in use; its scale is then drawn.
        each_step: Is called with step, model and optimizer before each step.
        batch: Changes the rows of a step: step, x, y → x, y.
        term: A second term of the loss, of outputs and inputs.
    """

    zero_grad: bool = True
    shuffled: bool = True
    trains: bool = True
    evaluates: bool = True
    singly: bool = False
    accumulated: int = 1
    divided: bool = True
    scaled: bool = False
    each_step: Callable[[int, nn.Module, torch.optim.Optimizer], object] = lambda *_: None
    batch: Callable[[int, torch.Tensor, torch.Tensor], Data] = lambda step, x, y: (x, y)
    term: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One training; every field is what an ordinary one has, unless a fault changes it.

    Attributes:
        model: Builds the model.
        data: Makes the training rows.
        optimizer: Makes the optimizer, from the model.
        loss: Makes the loss.
        epochs: Epochs.
        validation: Makes the validation rows; None without any.
        batch_size: Rows of a step.
        loop: How it goes on.
        scheduler: Makes the scheduler, from the optimizer; only where `fit` trains.
        by: The function that finds the problem: ``watch`` as it trains, ``check`` before, or ``fit``.
    """

    model: Callable[[], nn.Module] = mlp
    data: Callable[[], Data] = rows
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] = lambda model: sgd(model, 0.1)
    loss: Callable[[], Any] = nn.BCEWithLogitsLoss
    epochs: int = 10
    validation: Callable[[], Data] | None = None
    batch_size: int = 32
    loop: Loop = field(default_factory=Loop)
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None
    by: Literal["watch", "check", "fit"] = "watch"

    def but(self, **changes: Any) -> Run:
        """Return the same training with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Trained:
    """What was recorded of a training, and found in it.

    Attributes:
        history: What was recorded.
        context: What is known of the training.
        findings: What was found.
        points: What to draw, where it is not taken from the history.
    """

    history: RunHistory
    context: TaskContext
    findings: Sequence[autotrainer.Finding]
    points: tuple[Sequence[float], Sequence[float]] | None = None

    def finding(self, problem: str) -> autotrainer.Finding | None:
        """Return the finding of a problem; None if there is none."""
        return next((finding for finding in self.findings if finding.problem == problem), None)


@dataclass(frozen=True, slots=True)
class Picture:
    """What is shown of a faulty and a healthy run.

    Attributes:
        caption: What the faulty run does wrong, and the healthy one otherwise.
        faulty: The faulty run, or a function that trains it.
        healthy: The healthy one.
        curve: The points of a run to draw.
        axes: Labels of the axes.
        log: Whether the vertical axis is logarithmic.
    """

    caption: str
    faulty: Run | Callable[[], Trained]
    healthy: Run | Callable[[], Trained] = field(default_factory=Run)
    curve: Curve = _losses
    axes: tuple[str, str] = ("step", "training loss")
    log: bool = False


@dataclass(frozen=True, slots=True)
class Repaired:
    """What is shown of a repair: a faulty run, and the same with what the repair proposes.

    Attributes:
        problem: The problem of the run.
        run: The run, which `fit` trains unless `mend` is given.
        curve: The points to draw, of which those at the end must be lower than before.
        axes: Labels of the axes.
        log: Whether the vertical axis is logarithmic.
        mend: The loop with what the repair adds, if `fit` has that loop right anyway; else None.
        proposal: Which proposal of the repair is shown.
    """

    problem: str
    run: Run
    curve: Curve = _losses
    axes: tuple[str, str] = ("step", "training loss")
    log: bool = False
    mend: Loop | None = None
    proposal: int = 0
