"""The rules: one problem, one file. Pure functions of a run's history; see no framework and no adapter."""

from __future__ import annotations

from autotrainer.rule import Rule
from autotrainer.rules.abnormal_data import AbnormalData
from autotrainer.rules.dying_relu import DyingReLU
from autotrainer.rules.exploding_gradient import ExplodingGradient
from autotrainer.rules.improper_loss import ImproperLoss
from autotrainer.rules.improper_output_activation import ImproperOutputActivation
from autotrainer.rules.nonfinite import NonFinite
from autotrainer.rules.nonfinite_data import NonFiniteData
from autotrainer.rules.not_learning import NotLearning
from autotrainer.rules.oscillating_loss import OscillatingLoss
from autotrainer.rules.overfitting import Overfitting
from autotrainer.rules.poor_initialization import PoorInitialization
from autotrainer.rules.slow_convergence import SlowConvergence
from autotrainer.rules.target_mismatch import TargetMismatch
from autotrainer.rules.unscaled_targets import UnscaledTargets
from autotrainer.rules.vanishing_gradient import VanishingGradient

__all__ = ["BUILTIN"]

BUILTIN: tuple[type[Rule], ...] = (
    VanishingGradient,
    ExplodingGradient,
    DyingReLU,
    OscillatingLoss,
    SlowConvergence,
    NotLearning,
    ImproperOutputActivation,
    ImproperLoss,
    TargetMismatch,
    AbnormalData,
    NonFiniteData,
    UnscaledTargets,
    Overfitting,
    PoorInitialization,
    NonFinite,
)
"""All built-in rules, by code."""
