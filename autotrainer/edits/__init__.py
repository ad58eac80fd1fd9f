"""The closed vocabulary of edits: the smallest changes that a repair is made of.

An edit is a frozen record of plain values. It says what is to be different, never how: backends know that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from autotrainer.edits.base import INITIALIZER, Edit, initializer_for
from autotrainer.edits.data import (
    AddInputNoise,
    DropBadRows,
    EncodeTargets,
    NumberClasses,
    ReshapeTargets,
    ScaleInputs,
    ScaleTargets,
    SetBatchSize,
    ShuffleData,
    WeightClasses,
)
from autotrainer.edits.model import (
    AddDropout,
    AddResidual,
    ClipAttention,
    InsertNormalization,
    Reinitialize,
    ResizeLayers,
    ScaleOutputLayer,
    SetOutputActivation,
    SwapActivation,
)
from autotrainer.edits.safeguards import (
    RaisePrecision,
    ResetOptimizerState,
    RestoreZeroGrad,
    ReviveUnits,
    Rollback,
    SetMode,
    SkipUpdates,
)
from autotrainer.edits.training import (
    ClipGradients,
    CompleteOptimizer,
    DecayRate,
    ExtendTraining,
    ReduceOnPlateau,
    SetLearningRate,
    SetLoss,
    SetMomentum,
    SetWeightDecay,
    StopEarly,
    SwapOptimizer,
    TuneAdam,
    WarmUpRate,
)
from autotrainer.errors import ConfigError, nearest

__all__ = [
    "EDITS",
    "INITIALIZER",
    "AddDropout",
    "AddInputNoise",
    "AddResidual",
    "ClipAttention",
    "ClipGradients",
    "CompleteOptimizer",
    "DecayRate",
    "DropBadRows",
    "Edit",
    "EncodeTargets",
    "ExtendTraining",
    "InsertNormalization",
    "NumberClasses",
    "RaisePrecision",
    "ReduceOnPlateau",
    "Reinitialize",
    "ResetOptimizerState",
    "ReshapeTargets",
    "ResizeLayers",
    "RestoreZeroGrad",
    "ReviveUnits",
    "Rollback",
    "ScaleInputs",
    "ScaleOutputLayer",
    "ScaleTargets",
    "SetBatchSize",
    "SetLearningRate",
    "SetLoss",
    "SetMode",
    "SetMomentum",
    "SetOutputActivation",
    "SetWeightDecay",
    "ShuffleData",
    "SkipUpdates",
    "StopEarly",
    "SwapActivation",
    "SwapOptimizer",
    "TuneAdam",
    "WarmUpRate",
    "WeightClasses",
    "edit_from_dict",
    "initializer_for",
]

EDITS: Mapping[str, type[Edit]] = {
    cls.__name__: cls
    for cls in (
        SetLearningRate,
        SwapOptimizer,
        SetMomentum,
        SetWeightDecay,
        TuneAdam,
        CompleteOptimizer,
        ResetOptimizerState,
        RestoreZeroGrad,
        ClipGradients,
        SkipUpdates,
        WarmUpRate,
        DecayRate,
        ReduceOnPlateau,
        SetBatchSize,
        ExtendTraining,
        StopEarly,
        Rollback,
        SetMode,
        SetLoss,
        SetOutputActivation,
        SwapActivation,
        ResizeLayers,
        Reinitialize,
        ReviveUnits,
        RaisePrecision,
        ScaleOutputLayer,
        InsertNormalization,
        AddResidual,
        ClipAttention,
        AddDropout,
        AddInputNoise,
        ScaleInputs,
        ScaleTargets,
        EncodeTargets,
        NumberClasses,
        ReshapeTargets,
        ShuffleData,
        WeightClasses,
        DropBadRows,
    )
}
"""All edits by their kind. The order is that in which edits of one plan are best read."""


def edit_from_dict(values: Mapping[str, Any]) -> Edit:
    """Rebuild an edit from what `Edit.to_dict` returned.

    Raises:
        ConfigError: If the kind or one of the values is unknown.
    """
    kind = str(values.get("edit"))
    if kind not in EDITS:
        raise ConfigError(f"unknown edit {kind!r}: {nearest(kind, EDITS)}")
    cls = EDITS[kind]
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k != "edit"}
    known = {f.name for f in fields(cls)}
    unknown = set(given) - known
    if unknown:
        raise ConfigError(f"{kind} has no {sorted(unknown)[0]!r}: {nearest(sorted(unknown)[0], known)}")
    try:
        return cls(**given)
    except TypeError as error:
        raise ConfigError(f"{kind} is incomplete: {error}") from error
