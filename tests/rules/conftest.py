"""Synthetic histories: what a monitor would measure in a described training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from autotrainer.records.history import RunHistory
from autotrainer.records.loss_identity import with_identified_loss
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, StepStats
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext

LAYERS = (
    LayerInfo("fc1", "dense", "relu", 16, 100),
    LayerInfo("fc2", "dense", "relu", 16, 272),
    LayerInfo("out", "dense", "linear", 1, 17, hidden=False),
)

TARGETS = {
    "binary": TargetSummary(
        600, 600, 2, 1, False, True, 0.0, 1.0, 0.5, 0.25, values=(0.0, 1.0), classes=2, majority=0.5
    ),
    "signed": TargetSummary(
        600, 600, 2, 1, False, True, -1.0, 1.0, 0.0, 1.0, values=(-1.0, 1.0), classes=2, majority=0.5
    ),
    "index": TargetSummary(
        600, 600, 1, 1, True, True, 0.0, 3.0, 1.5, 1.25, values=(0.0, 1.0, 2.0, 3.0), classes=4, majority=0.25
    ),
    "one_hot": TargetSummary(
        2400,
        600,
        2,
        4,
        False,
        True,
        0.0,
        1.0,
        0.25,
        0.19,
        values=(0.0, 1.0),
        one_hot=True,
        classes=4,
        majority=0.25,
        column_majority=0.75,
        column_entropy=0.5623,
        value_entropy=0.0,
    ),
    "multilabel": TargetSummary(
        2400,
        600,
        2,
        4,
        False,
        True,
        0.0,
        1.0,
        0.5,
        0.25,
        values=(0.0, 1.0),
        classes=2,
        majority=0.5,
        column_majority=0.5,
        column_entropy=0.6931,
        value_entropy=0.0,
    ),
    "real": TargetSummary(600, 600, 2, 1, False, False, -2.0, 2.0, 0.0, 1.0),
    "flat": TargetSummary(600, 600, 1, 1, False, False, -2.0, 2.0, 0.0, 1.0),
    "large": TargetSummary(600, 600, 2, 1, False, False, 1e4, 9e4, 5e4, 4e8),
}

LOSSES = {
    "bce": LossInfo("BCELoss", "binary_cross_entropy", "probabilities"),
    "bce_logits": LossInfo("BCEWithLogitsLoss", "binary_cross_entropy", "logits"),
    "ce": LossInfo("CrossEntropyLoss", "cross_entropy", "logits", "either", 1),
    "cce": LossInfo("categorical_crossentropy", "cross_entropy", "probabilities", "one_hot"),
    "scce": LossInfo("sparse_categorical_crossentropy", "cross_entropy", "probabilities", "index"),
    "nll": LossInfo("NLLLoss", "cross_entropy", "log_probabilities", "index", 1),
    "kl": LossInfo("KLDivLoss", "kl_divergence", "log_probabilities"),
    "mse": LossInfo("MSELoss", "squared_error", "values"),
    "mae": LossInfo("L1Loss", "absolute_error", "values"),
    "poisson": LossInfo("PoissonNLLLoss", "poisson", "log_values"),
    "poisson_rates": LossInfo("PoissonNLLLoss", "poisson", "values"),
    "custom": LossInfo(),
    "none": LossInfo("none", "none"),
}

HEALTHY_TABLE: dict[str, Any] = {
    "grad_norm": 0.3,
    "grad_zero_fraction": 0.1,
    "weight_norm": 2.0,
    "update_ratio": 1e-3,
    "activation_mean_abs": 0.5,
    "activation_std": 0.8,
    "activation_max_abs": 4.0,
    "activation_spread": 0.7,
    "dead_units": [0.2, 0.1, np.nan],
}

Value = float | Sequence[float] | Callable[[int], Any]


def _at(value: Any, step: int) -> Any:
    return value(step) if callable(value) else value


def sampled(step: int, last: int) -> bool:
    """Return whether the sampler would sample a step, given enough time."""
    return step < 10 or step == last or step % max(1, 2 ** max(0, int(np.log2(step / 25)))) == 0


def build(
    *,
    steps: int = 600,
    per_epoch: int = 20,
    targets: str | TargetSummary = "binary",
    loss: str = "bce_logits",
    losses: Callable[[int], float] | None = None,
    layers: Sequence[LayerInfo] = LAYERS,
    scalars: Mapping[str, Value] | None = None,
    table: Mapping[str, Value] | None = None,
    epochs: Mapping[str, Callable[[int], float]] | None = None,
    terms: Mapping[str, Value] | None = None,
    planned_epochs: int | None = 30,
    finished: bool = False,
    **context: Any,
) -> tuple[RunHistory, TaskContext]:
    """Return history and context of a training; by default a healthy one that learns two classes.

    Args:
        steps: Steps done.
        per_epoch: Steps of an epoch.
        targets: Name in `TARGETS`, or a summary.
        loss: Name in `LOSSES`.
        losses: Loss by step.
        layers: Layers.
        scalars: Step columns by name: number, or function of the step.
        table: Layer columns by name: number, one number a layer, or function of the step.
        epochs: Values of epochs by name: function of the epoch.
        terms: Terms of the loss by name: number, or function of the step.
        planned_epochs: Planned length.
        finished: Whether the training has ended.
        **context: Further fields of the context.
    """
    curve = losses or (lambda t: 0.1 + 0.59 * np.exp(-t / 60))
    measured: dict[str, Value] = {
        "loss": curve,
        "learning_rate": 0.01,
        "batch_size": 32,
        "grad_norm": 0.5,
        "accuracy": lambda t: 0.98 - 0.48 * np.exp(-t / 60),
        "output_min": -3.0,
        "output_max": 3.0,
        "output_spread": 1.0,
        "target_spread": 0.5,
        "target_min": 0.0,
        "target_max": 1.0,
        "target_nonfinite": 0.0,
        "input_nonfinite": 0.0,
        "input_max_abs": 3.0,
        "input_mean": 0.0,
        "input_std": 1.0,
        "input_offset": 0.1,
        "input_scale_ratio": 2.0,
        "input_constant": 0.0,
    } | dict(scalars or {})
    columns = HEALTHY_TABLE | dict(table or {})
    history = RunHistory(layers)
    summary = TARGETS[targets] if isinstance(targets, str) else targets
    waiting: list[tuple[int, float]] = []
    for step in range(steps):
        if sampled(step, steps - 1):
            row = np.array([_at(measured.get(name, np.nan), step) for name in STEP_COLUMNS], np.float64)
            body = np.full((len(layers), len(LAYER_COLUMNS)), np.nan)
            for name, value in columns.items():
                values = np.broadcast_to(np.asarray(_at(value, step), np.float64), (len(layers),))
                body[:, LAYER_COLUMNS.index(name)] = values
            parts = {name: float(_at(value, step)) for name, value in (terms or {}).items()}
            history.add_step(StepStats(step, step // per_epoch, row, body, parts), waiting, summary)
            waiting = []
        else:
            waiting.append((step, float(curve(step))))
        if (step + 1) % per_epoch == 0:
            epoch = step // per_epoch
            history.add_epoch(epoch, step, {name: f(epoch) for name, f in (epochs or {"value": float}).items()})
    history.finished = finished
    fields: dict[str, Any] = {
        "framework": "pytorch",
        "loss": LOSSES[loss],
        "optimizer": OptimizerInfo("sgd", 0.01),
        "layers": tuple(layers),
        "output_activation": "linear",
        "output_units": 1,
        "input_kind": "values",
        "planned_epochs": planned_epochs,
    } | context
    return history, with_identified_loss(history, TaskContext(**fields))


@pytest.fixture(name="build")
def _build() -> Callable[..., tuple[RunHistory, TaskContext]]:
    """The builder of synthetic histories."""
    return build


@pytest.fixture
def target_summaries() -> dict[str, TargetSummary]:
    """Summaries of targets by name."""
    return TARGETS
