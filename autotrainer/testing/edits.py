"""One edit of each kind, for tests of backends."""

from __future__ import annotations

from collections.abc import Sequence

from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    AddResidual,
    ClipAttention,
    ClipGradients,
    CompleteOptimizer,
    DecayRate,
    DropBadRows,
    Edit,
    EncodeTargets,
    ExtendTraining,
    InsertNormalization,
    NumberClasses,
    RaisePrecision,
    ReduceOnPlateau,
    Reinitialize,
    ResetOptimizerState,
    ReshapeTargets,
    ResizeLayers,
    RestoreZeroGrad,
    ReviveUnits,
    Rollback,
    ScaleInputs,
    ScaleOutputLayer,
    ScaleTargets,
    SetBatchSize,
    SetLearningRate,
    SetLoss,
    SetMode,
    SetMomentum,
    SetOutputActivation,
    SetWeightDecay,
    ShuffleData,
    SkipUpdates,
    StopEarly,
    SwapActivation,
    SwapOptimizer,
    TuneAdam,
    WarmUpRate,
    WeightClasses,
)

__all__ = ["every_edit"]


def every_edit(hidden: Sequence[str]) -> tuple[Edit, ...]:
    """Return one edit of each kind.

    Args:
        hidden: Names of the hidden layers of a classifier.
    """
    layers = tuple(hidden)
    return (
        SetLearningRate(0.01),
        SwapOptimizer("adam", 0.01),
        SetMomentum(0.9),
        SetWeightDecay(0.01),
        ClipGradients("norm", 1.0),
        TuneAdam(0.95, 1e-12, clip_updates=True),
        CompleteOptimizer(layers),
        ResetOptimizerState(1),
        RestoreZeroGrad(),
        SkipUpdates(),
        WarmUpRate(2),
        DecayRate(),
        ReduceOnPlateau(),
        SetBatchSize(16),
        ExtendTraining(2),
        StopEarly(2),
        Rollback(),
        SetMode(),
        SetLoss("binary_cross_entropy", "probabilities"),
        SetOutputActivation("sigmoid"),
        SwapActivation(layers, "relu"),
        Reinitialize(layers, "he_uniform"),
        ReviveUnits(layers),
        RaisePrecision(),
        ResizeLayers(layers, (24,) * len(layers)),
        ScaleOutputLayer(0.5),
        InsertNormalization(layers),
        AddResidual(layers),
        ClipAttention(layers),
        AddDropout(layers, 0.2),
        AddInputNoise(0.1),
        ScaleInputs(),
        ScaleTargets(),
        EncodeTargets("zero_one"),
        NumberClasses(),
        ReshapeTargets(),
        ShuffleData(),
        WeightClasses(),
        DropBadRows(),
    )
