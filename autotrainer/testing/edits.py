"""One edit of each kind, and edits that must be refused: what tests of a backend try."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from autotrainer.edits import (
    EDITS,
    AddDropout,
    AddInputNoise,
    AddResidual,
    ClipGradients,
    Edit,
    ExtendTraining,
    ReduceOnPlateau,
    Reinitialize,
    ResizeOutputLayer,
    ScaleInputs,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    StopEarly,
    SwapActivation,
    SwapOptimizer,
)

__all__ = ["REFUSED", "every_edit"]


def every_edit(hidden: Sequence[str]) -> tuple[Edit, ...]:
    """Return one edit of each kind, for a binary classifier with these hidden layers."""
    return tuple(kind.example(tuple(hidden)) for kind in EDITS.values())


REFUSED: tuple[Callable[[], Edit], ...] = (
    lambda: SetBatchSize(0),
    lambda: SetBatchSize("x"),  # type: ignore[arg-type]
    lambda: SetBatchSize(True),
    lambda: ClipGradients("norm", -1.0),
    lambda: ClipGradients("norm", math.nan),
    lambda: ClipGradients("median", 1.0),  # type: ignore[arg-type]
    lambda: SetLearningRate(0.0),
    lambda: SetLearningRate(-1.0),
    lambda: SetLearningRate(math.nan),
    lambda: SetLearningRate(math.inf),
    lambda: SetMomentum(1.0),
    lambda: SwapOptimizer("adam", 0.01, momentum=0.9),
    lambda: ExtendTraining(0),
    lambda: StopEarly(0),
    lambda: ReduceOnPlateau(factor=2.0),
    lambda: SetLoss("squared_error", "log_probabilities"),
    lambda: ScaleInputs(std=(0.0,)),
    lambda: ScaleInputs((math.nan,), (1.0,)),
    lambda: ScaleInputs((0.0, 1.0), (1.0,)),
    lambda: ScaleInputs((0.0,), (1.0,), (0.0,), (-1.0,)),
    lambda: ScaleInputs((0.0,), (1.0,), (0.0, 1.0), (1.0, 1.0)),
    lambda: ScaleInputs((0.0,), (1.0,), (math.inf,), (1.0,)),
    lambda: ScaleInputs((0.0,), (1.0,), constant=(1,)),
    lambda: ScaleInputs((0.0, 0.0), (1.0, 1.0), constant=(1,), row_numbers=(1,)),
    lambda: ScaleInputs((0.0,), (1.0,), row_numbers=(0.5,)),  # type: ignore[arg-type]
    lambda: AddInputNoise(-1.0),
    lambda: AddDropout(("hidden",), 1.0),
    lambda: AddResidual(()),
    lambda: ResizeOutputLayer(0),
    lambda: ResizeOutputLayer(2, ("first", "second")),
    lambda: ResizeOutputLayer(2, ("out",), ("norm",)),
    lambda: SwapActivation(("hidden",), "cosine"),  # type: ignore[arg-type]
    lambda: Reinitialize("hidden", "he_uniform"),  # type: ignore[arg-type]
)
"""Makers of edits with values that make no sense: each raises `ConfigError`."""
