"""The repairs: one repair, one file. Propose edits; see no framework and no model."""

from __future__ import annotations

from autotrainer.repair import Repair
from autotrainer.repairs.add_activation import AddActivationRepair
from autotrainer.repairs.add_dropout import AddDropoutRepair
from autotrainer.repairs.add_input_noise import AddInputNoiseRepair
from autotrainer.repairs.add_momentum import AddMomentumRepair
from autotrainer.repairs.add_residual import AddResidualRepair
from autotrainer.repairs.change_batch_size import ChangeBatchSizeRepair
from autotrainer.repairs.clip_attention import ClipAttentionRepair
from autotrainer.repairs.clip_gradients import ClipGradientsRepair
from autotrainer.repairs.complete_optimizer import CompleteOptimizerRepair
from autotrainer.repairs.drop_bad_rows import DropBadRowsRepair
from autotrainer.repairs.encode_targets import EncodeTargetsRepair
from autotrainer.repairs.extend_training import ExtendTrainingRepair
from autotrainer.repairs.fix_loss import FixLossRepair
from autotrainer.repairs.fix_output_activation import FixOutputActivationRepair
from autotrainer.repairs.insert_normalization import InsertNormalizationRepair
from autotrainer.repairs.lead_padding import LeadPaddingRepair
from autotrainer.repairs.raise_precision import RaisePrecisionRepair
from autotrainer.repairs.reduce_on_plateau import ReduceOnPlateauRepair
from autotrainer.repairs.regularize_weights import RegularizeWeightsRepair
from autotrainer.repairs.reinitialize import ReinitializeRepair
from autotrainer.repairs.replace_train_step import ReplaceTrainStepRepair
from autotrainer.repairs.reset_optimizer_state import ResetOptimizerStateRepair
from autotrainer.repairs.reshape_targets import ReshapeTargetsRepair
from autotrainer.repairs.resize_hidden_layers import ResizeHiddenLayersRepair
from autotrainer.repairs.resize_output_layer import ResizeOutputLayerRepair
from autotrainer.repairs.restore_axes import RestoreAxesRepair
from autotrainer.repairs.restore_zero_grad import RestoreZeroGradRepair
from autotrainer.repairs.revive_units import ReviveUnitsRepair
from autotrainer.repairs.rollback import RollbackRepair
from autotrainer.repairs.scale_each_target import ScaleEachTargetRepair
from autotrainer.repairs.scale_inputs import ScaleInputsRepair
from autotrainer.repairs.scale_learning_rate import ScaleLearningRateRepair
from autotrainer.repairs.scale_output_layer import ScaleOutputLayerRepair
from autotrainer.repairs.scale_targets import ScaleTargetsRepair
from autotrainer.repairs.schedule_learning_rate import ScheduleLearningRateRepair
from autotrainer.repairs.set_mode import SetModeRepair
from autotrainer.repairs.shuffle_data import ShuffleDataRepair
from autotrainer.repairs.skip_update import SkipUpdateRepair
from autotrainer.repairs.stop_early import StopEarlyRepair
from autotrainer.repairs.swap_activation import SwapActivationRepair
from autotrainer.repairs.swap_optimizer import SwapOptimizerRepair
from autotrainer.repairs.thaw_layers import ThawLayersRepair
from autotrainer.repairs.tune_adam import TuneAdamRepair
from autotrainer.repairs.warm_up_learning_rate import WarmUpLearningRateRepair
from autotrainer.repairs.weaken_regularization import WeakenRegularizationRepair
from autotrainer.repairs.weight_classes import WeightClassesRepair

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Repair], ...] = (
    FixOutputActivationRepair,
    FixLossRepair,
    ResizeOutputLayerRepair,
    ScaleInputsRepair,
    DropBadRowsRepair,
    ScaleTargetsRepair,
    ScaleEachTargetRepair,
    EncodeTargetsRepair,
    ReshapeTargetsRepair,
    RestoreAxesRepair,
    LeadPaddingRepair,
    ShuffleDataRepair,
    WeightClassesRepair,
    SwapActivationRepair,
    AddActivationRepair,
    InsertNormalizationRepair,
    ClipGradientsRepair,
    ReinitializeRepair,
    ScaleOutputLayerRepair,
    ResizeHiddenLayersRepair,
    AddResidualRepair,
    ClipAttentionRepair,
    SwapOptimizerRepair,
    ScaleLearningRateRepair,
    ReduceOnPlateauRepair,
    ChangeBatchSizeRepair,
    AddMomentumRepair,
    AddInputNoiseRepair,
    RegularizeWeightsRepair,
    AddDropoutRepair,
    WeakenRegularizationRepair,
    StopEarlyRepair,
    CompleteOptimizerRepair,
    ThawLayersRepair,
    ReplaceTrainStepRepair,
    RestoreZeroGradRepair,
    SetModeRepair,
    ExtendTrainingRepair,
    WarmUpLearningRateRepair,
    ScheduleLearningRateRepair,
    TuneAdamRepair,
    ReviveUnitsRepair,
    SkipUpdateRepair,
    RollbackRepair,
    ResetOptimizerStateRepair,
    RaisePrecisionRepair,
)
"""All built-in repairs."""
