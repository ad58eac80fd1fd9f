"""The repairs: one repair, one file. Propose edits; see no framework and no model."""

from __future__ import annotations

from autotrainer.repair import Repair
from autotrainer.repairs.add_dropout import AddDropoutRepair
from autotrainer.repairs.add_input_noise import AddInputNoiseRepair
from autotrainer.repairs.add_momentum import AddMomentumRepair
from autotrainer.repairs.change_batch_size import ChangeBatchSizeRepair
from autotrainer.repairs.clip_gradients import ClipGradientsRepair
from autotrainer.repairs.fix_loss import FixLossRepair
from autotrainer.repairs.fix_output_activation import FixOutputActivationRepair
from autotrainer.repairs.insert_normalization import InsertNormalizationRepair
from autotrainer.repairs.reduce_on_plateau import ReduceOnPlateauRepair
from autotrainer.repairs.regularize_weights import RegularizeWeightsRepair
from autotrainer.repairs.reinitialize import ReinitializeRepair
from autotrainer.repairs.scale_inputs import ScaleInputsRepair
from autotrainer.repairs.scale_learning_rate import ScaleLearningRateRepair
from autotrainer.repairs.stop_early import StopEarlyRepair
from autotrainer.repairs.swap_activation import SwapActivationRepair
from autotrainer.repairs.swap_optimizer import SwapOptimizerRepair

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Repair], ...] = (
    FixOutputActivationRepair,
    FixLossRepair,
    ScaleInputsRepair,
    SwapActivationRepair,
    InsertNormalizationRepair,
    ClipGradientsRepair,
    ReinitializeRepair,
    SwapOptimizerRepair,
    ScaleLearningRateRepair,
    ReduceOnPlateauRepair,
    ChangeBatchSizeRepair,
    AddMomentumRepair,
    AddInputNoiseRepair,
    RegularizeWeightsRepair,
    AddDropoutRepair,
    StopEarlyRepair,
)
"""All built-in repairs."""
