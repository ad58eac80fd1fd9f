"""The rules: one problem, one file. Pure functions of a run's history; see no framework and no adapter."""

from __future__ import annotations

from autotrainer.rule import Rule
from autotrainer.rules.abnormal_data import AbnormalData
from autotrainer.rules.abnormal_initial_loss import AbnormalInitialLoss
from autotrainer.rules.abnormal_normalization import AbnormalNormalization
from autotrainer.rules.abnormal_update_ratio import AbnormalUpdateRatio
from autotrainer.rules.attention_entropy_collapse import AttentionEntropyCollapse
from autotrainer.rules.bad_resume import BadResume
from autotrainer.rules.broken_attention_mask import BrokenAttentionMask
from autotrainer.rules.checkpoint_not_loaded import CheckpointNotLoaded
from autotrainer.rules.class_imbalance import ClassImbalance
from autotrainer.rules.data_leakage import DataLeakage
from autotrainer.rules.divergence import Divergence
from autotrainer.rules.dormant_neurons import DormantNeurons
from autotrainer.rules.dying_relu import DyingReLU
from autotrainer.rules.embedding_unused import EmbeddingUnused
from autotrainer.rules.exploding_gradient import ExplodingGradient
from autotrainer.rules.gradient_spike import GradientSpike
from autotrainer.rules.ignored_input import IgnoredInput
from autotrainer.rules.ignored_positions import IgnoredPositions
from autotrainer.rules.improper_loss import ImproperLoss
from autotrainer.rules.improper_output_activation import ImproperOutputActivation
from autotrainer.rules.insufficient_capacity import InsufficientCapacity
from autotrainer.rules.learning_rate_too_high import LearningRateTooHigh
from autotrainer.rules.learning_rate_too_low import LearningRateTooLow
from autotrainer.rules.loss_scale_collapse import LossScaleCollapse
from autotrainer.rules.loss_spike import LossSpike
from autotrainer.rules.loss_term_imbalance import LossTermImbalance
from autotrainer.rules.missing_zero_grad import MissingZeroGrad
from autotrainer.rules.no_gradient import NoGradient
from autotrainer.rules.nonfinite import NonFinite
from autotrainer.rules.nonfinite_data import NonFiniteData
from autotrainer.rules.not_learning import NotLearning
from autotrainer.rules.oscillating_loss import OscillatingLoss
from autotrainer.rules.overfitting import Overfitting
from autotrainer.rules.padded_targets import PaddedTargets
from autotrainer.rules.parameters_not_optimized import ParametersNotOptimized
from autotrainer.rules.poor_initialization import PoorInitialization
from autotrainer.rules.recreated_optimizer import RecreatedOptimizer
from autotrainer.rules.repeated_augmentation import RepeatedAugmentation
from autotrainer.rules.repeated_batch import RepeatedBatch
from autotrainer.rules.replica_desync import ReplicaDesync
from autotrainer.rules.representation_collapse import RepresentationCollapse
from autotrainer.rules.rows_mixed import RowsMixed
from autotrainer.rules.saturated_activation import SaturatedActivation
from autotrainer.rules.shuffled_labels import ShuffledLabels
from autotrainer.rules.sibling_outlier import SiblingOutlier
from autotrainer.rules.slow_convergence import SlowConvergence
from autotrainer.rules.stale_second_moment import StaleSecondMoment
from autotrainer.rules.target_mismatch import TargetMismatch
from autotrainer.rules.too_few_epochs import TooFewEpochs
from autotrainer.rules.unlearnable_targets import UnlearnableTargets
from autotrainer.rules.unscaled_targets import UnscaledTargets
from autotrainer.rules.unshuffled_data import UnshuffledData
from autotrainer.rules.unstable_evaluation import UnstableEvaluation
from autotrainer.rules.validation_mismatch import ValidationMismatch
from autotrainer.rules.vanishing_gradient import VanishingGradient
from autotrainer.rules.worse_than_simple_model import WorseThanSimpleModel
from autotrainer.rules.wrong_accumulation import WrongAccumulation
from autotrainer.rules.wrong_backward import WrongBackward
from autotrainer.rules.wrong_schedule import WrongSchedule
from autotrainer.rules.wrong_training_mode import WrongTrainingMode

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    GradientSpike,
    NoGradient,
    DyingReLU,
    SaturatedActivation,
    DormantNeurons,
    RepresentationCollapse,
    AttentionEntropyCollapse,
    SiblingOutlier,
    AbnormalNormalization,
    BrokenAttentionMask,
    IgnoredPositions,
    RowsMixed,
    UnstableEvaluation,
    EmbeddingUnused,
    OscillatingLoss,
    SlowConvergence,
    NotLearning,
    LossSpike,
    Divergence,
    WorseThanSimpleModel,
    ImproperOutputActivation,
    ImproperLoss,
    ParametersNotOptimized,
    MissingZeroGrad,
    WrongTrainingMode,
    TargetMismatch,
    AbnormalInitialLoss,
    LearningRateTooHigh,
    LearningRateTooLow,
    WrongSchedule,
    TooFewEpochs,
    InsufficientCapacity,
    WrongAccumulation,
    LossTermImbalance,
    CheckpointNotLoaded,
    BadResume,
    RecreatedOptimizer,
    PaddedTargets,
    WrongBackward,
    AbnormalData,
    NonFiniteData,
    UnshuffledData,
    ClassImbalance,
    IgnoredInput,
    DataLeakage,
    UnlearnableTargets,
    UnscaledTargets,
    RepeatedAugmentation,
    ShuffledLabels,
    ValidationMismatch,
    RepeatedBatch,
    Overfitting,
    PoorInitialization,
    AbnormalUpdateRatio,
    NonFinite,
    LossScaleCollapse,
    StaleSecondMoment,
    ReplicaDesync,
)
"""All built-in rules, by code."""
