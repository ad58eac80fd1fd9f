"""The interface between the core and a framework: everything that a backend needs to import."""

from autotrainer.adapter.backend import Backend, OpenWatch
from autotrainer.adapter.loop import LoopRun, LoopTrainer
from autotrainer.adapter.observer import EpochObserver, Locator, Observer, Recorder, Sampling
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
from autotrainer.records.data import ArrayData, Data, StreamData
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, LayerInfo, Observation, StepStats
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext

__all__ = [
    "LAYER_COLUMNS",
    "STEP_COLUMNS",
    "ArrayData",
    "Backend",
    "Data",
    "EpochObserver",
    "Evaluation",
    "FitRequest",
    "LayerInfo",
    "Locator",
    "LoopObjects",
    "LoopRequest",
    "LoopRun",
    "LoopTrainer",
    "LossInfo",
    "Observation",
    "Observer",
    "OpenWatch",
    "OptimizerInfo",
    "PausedTraining",
    "Recorder",
    "ReplayRun",
    "Run",
    "Sampling",
    "StepStats",
    "StreamData",
    "Support",
    "SupportLevel",
    "TargetSummary",
    "TaskContext",
    "Trained",
    "Trainer",
    "TrainingSpec",
]
