"""The interface between the core and a framework: everything that a backend needs to import."""

from autotrainer.adapter.backend import Backend, OpenWatch
from autotrainer.adapter.loop import LoopRun, LoopTrainer
from autotrainer.adapter.observer import EpochObserver, Locator, Observer, Recorder, Sampling
from autotrainer.adapter.probed_model import PROBE_ROWS, NotProbedError, ProbedModel, check_memory
from autotrainer.adapter.spec import (
    Evaluation,
    FitRequest,
    LoopObjects,
    LoopRequest,
    PausedTraining,
    Support,
    SupportLevel,
    Trained,
    TrainingSpec,
)
from autotrainer.adapter.trainer import ReplayRun, Run, Trainer
from autotrainer.edits import Edit
from autotrainer.errors import ConfigError, DataError, InputError
from autotrainer.records.data import ArrayData, Data, StreamData
from autotrainer.records.facts import FACTS
from autotrainer.records.measurement import (
    OUTPUT_COLUMNS,
    SATURATION_SLOPE,
    WITHOUT_UNITS,
    ZERO_REGION,
    attention_subset,
)
from autotrainer.records.nonfinite import FirstNonfinite, Location, Operation, first_nonfinite
from autotrainer.records.signals import (
    DEAD_WINDOW,
    DORMANT,
    LAYER_COLUMNS,
    MAX_FEATURES,
    MAX_RANK,
    MAX_ROWS,
    MAX_VALUES,
    SAMPLED_ENTRIES,
    STEP_COLUMNS,
    LayerInfo,
    Observation,
    StepStats,
)
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext

Search = ReplayRun
"""The name of `ReplayRun` in version 0.1."""

__all__ = [
    "DEAD_WINDOW",
    "DORMANT",
    "FACTS",
    "LAYER_COLUMNS",
    "MAX_FEATURES",
    "MAX_RANK",
    "MAX_ROWS",
    "MAX_VALUES",
    "OUTPUT_COLUMNS",
    "PROBE_ROWS",
    "SAMPLED_ENTRIES",
    "SATURATION_SLOPE",
    "STEP_COLUMNS",
    "WITHOUT_UNITS",
    "ZERO_REGION",
    "ArrayData",
    "Backend",
    "ConfigError",
    "Data",
    "DataError",
    "Edit",
    "EpochObserver",
    "Evaluation",
    "FirstNonfinite",
    "FitRequest",
    "InputError",
    "LayerInfo",
    "Location",
    "Locator",
    "LoopObjects",
    "LoopRequest",
    "LoopRun",
    "LoopTrainer",
    "LossInfo",
    "NotProbedError",
    "Observation",
    "Observer",
    "OpenWatch",
    "Operation",
    "OptimizerInfo",
    "PausedTraining",
    "ProbedModel",
    "Recorder",
    "ReplayRun",
    "Run",
    "Sampling",
    "Search",
    "StepStats",
    "StreamData",
    "Support",
    "SupportLevel",
    "TargetSummary",
    "TaskContext",
    "Trained",
    "Trainer",
    "TrainingSpec",
    "attention_subset",
    "check_memory",
    "first_nonfinite",
]
