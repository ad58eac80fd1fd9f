"""Edits of how a training goes: optimizer, learning rate, loss, length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from autotrainer.edits.base import Edit, Optimizer, check_number

__all__ = [
    "ClipGradients",
    "CompleteOptimizer",
    "DecayRate",
    "ExtendTraining",
    "ReduceOnPlateau",
    "SetLearningRate",
    "SetLoss",
    "SetMomentum",
    "SetWeightDecay",
    "StopEarly",
    "SwapOptimizer",
    "TuneAdam",
    "WarmUpRate",
]


@dataclass(frozen=True, slots=True)
class SetLearningRate(Edit):
    """Train with this initial learning rate (> 0); a schedule of the user's is scaled along."""

    value: float


@dataclass(frozen=True, slots=True)
class SwapOptimizer(Edit):
    """Train with another optimizer, built anew over the same parameters."""

    memory: ClassVar[bool] = True
    name: Optimizer
    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class SetMomentum(Edit):
    """Give SGD a momentum in [0, 1)."""

    memory: ClassVar[bool] = True
    value: float
    nesterov: bool = False


@dataclass(frozen=True, slots=True)
class SetWeightDecay(Edit):
    """Decay weight matrices (not biases, not normalization parameters) by this coefficient, decoupled."""

    value: float


@dataclass(frozen=True, slots=True)
class ClipGradients(Edit):
    """Clip gradients before each step: each entry (``value``) or the global L2 norm (``norm``) to a limit > 0."""

    kind: Literal["value", "norm"]
    limit: float


@dataclass(frozen=True, slots=True)
class ReduceOnPlateau(Edit):
    """Multiply the learning rate by a factor where the loss has not improved for ``patience`` epochs.

    ``floor`` is the smallest rate, as a share of the initial one.
    """

    factor: float = 0.5
    patience: int = 5
    floor: float = 0.01


@dataclass(frozen=True, slots=True)
class WarmUpRate(Edit):
    """Raise the learning rate evenly from next to nothing to the rate set, over the first ``steps`` steps (>= 1)."""

    steps: int

    def __post_init__(self) -> None:
        check_number(self, "steps", least=1, whole=True)


@dataclass(frozen=True, slots=True)
class DecayRate(Edit):
    """Lower the learning rate along half a cosine, from the rate set to ``floor`` times that at the last step.

    Attributes:
        floor: Last rate ÷ the one set, in [0, 1).
        instead: Whether it takes the place of a schedule of the user's; else a training with one can't have it.
        steps: Length in optimizer steps; 0: that of the training, which the plan of a run holds.
    """

    floor: float = 0.0
    instead: bool = False
    steps: int = 0

    def __post_init__(self) -> None:
        check_number(self, "floor", least=0, below=1)
        check_number(self, "steps", least=0, whole=True)


@dataclass(frozen=True, slots=True)
class ExtendTraining(Edit):
    """Train this many epochs (>= 1), more than planned."""

    says_first: ClassVar[str | None] = "length"
    epochs: int

    def __post_init__(self) -> None:
        check_number(self, "epochs", least=1, whole=True)


@dataclass(frozen=True, slots=True)
class TuneAdam(Edit):
    """Change how Adam and its kin divide by their second moment; None leaves a setting as it is.

    Attributes:
        beta_2: How slowly the second moment forgets, in [0, 1).
        epsilon: What is added to its root, > 0.
        clip_updates: Whether the update of a tensor is divided by the root mean square of gradient ÷ root of the
            second moment where that is above 1.
    """

    memory: ClassVar[bool] = True
    beta_2: float | None = None
    epsilon: float | None = None
    clip_updates: bool = False

    def __post_init__(self) -> None:
        if self.beta_2 is not None:
            check_number(self, "beta_2", least=0, below=1)
        if self.epsilon is not None:
            check_number(self, "epsilon", above=0)


@dataclass(frozen=True, slots=True)
class CompleteOptimizer(Edit):
    """Give the optimizer the parameters of these layers that it lacks; of all layers where none is named."""

    memory: ClassVar[bool] = True
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StopEarly(Edit):
    """Stop after ``patience`` epochs without a better validation loss, and restore the best weights."""

    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "length"
    patience: int


@dataclass(frozen=True, slots=True)
class SetLoss(Edit):
    """Train with another loss. Targets keep the user's form; the loss converts them itself.

    Attributes:
        name: ``cross_entropy`` (classes; targets are indices or one-hot), ``binary_cross_entropy`` (targets in
            [0, 1], per unit), ``signed_logistic`` (targets in {-1, 1}), ``squared_error`` or ``absolute_error``.
        expects: What the output is: ``logits``, ``probabilities``, ``log_probabilities`` or ``values``.
    """

    says_first: ClassVar[str | None] = "loss"
    name: Literal["cross_entropy", "binary_cross_entropy", "signed_logistic", "squared_error", "absolute_error"]
    expects: Literal["logits", "probabilities", "log_probabilities", "values"]
