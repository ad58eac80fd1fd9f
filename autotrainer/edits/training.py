"""Edits of how a training goes: optimizer, learning rate, loss, length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from autotrainer.edits.base import (
    OPTIMIZERS,
    Count,
    Edit,
    Fraction,
    NonNegative,
    Optimizer,
    Positive,
    Range,
    Whole,
    join_names,
)
from autotrainer.errors import ConfigError

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
    "StandardStep",
    "StopEarly",
    "SwapOptimizer",
    "TuneAdam",
    "WarmUpRate",
]


@dataclass(frozen=True, slots=True)
class SetLearningRate(Edit):
    """Train with this initial learning rate (> 0); the user's schedule is scaled with it."""

    example_values: ClassVar[Mapping[str, Any]] = {"value": 0.01}
    value: Positive

    def __str__(self) -> str:
        return f"learning rate {self.value:g}"


@dataclass(frozen=True, slots=True)
class StandardStep(Edit):
    """Train with the framework's own step in place of one that the model defines, and with the loss that this calls.

    Attributes:
        loss: This loss, as in code. Determined when the training is built; the plan of a run holds it.
    """

    affects: ClassVar[str | None] = "loss"
    loss: str | None = None

    def __str__(self) -> str:
        loss = f", with its loss {self.loss}" if self.loss else ""
        return f"the standard training step in place of the model's own{loss}"


@dataclass(frozen=True, slots=True)
class SwapOptimizer(Edit):
    """Train with another optimizer, created for the same parameters.

    Attributes:
        name: The optimizer.
        learning_rate: Its initial learning rate, > 0.
        momentum: In [0, 1); only SGD and RMSprop have one.
        weight_decay: Coefficient, >= 0.
    """

    memory: ClassVar[bool] = True
    example_values: ClassVar[Mapping[str, Any]] = {"name": "adam", "learning_rate": 0.01}
    name: Optimizer
    learning_rate: Positive
    momentum: Fraction = 0.0
    weight_decay: NonNegative = 0.0

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if self.momentum and self.name not in ("sgd", "rmsprop"):
            raise ConfigError(
                f"SwapOptimizer: {self.name} has no momentum: leave momentum at 0, or choose sgd or rmsprop"
            )

    def __str__(self) -> str:
        momentum = f", momentum {self.momentum:g}" if self.momentum else ""
        return f"optimizer {OPTIMIZERS[self.name]}, learning rate {self.learning_rate:g}{momentum}"


@dataclass(frozen=True, slots=True)
class SetMomentum(Edit):
    """Give SGD a momentum in [0, 1)."""

    memory: ClassVar[bool] = True
    example_values: ClassVar[Mapping[str, Any]] = {"value": 0.9}
    value: Fraction
    nesterov: bool = False

    def __str__(self) -> str:
        return f"SGD with {'Nesterov ' if self.nesterov else ''}momentum {self.value:g}"


@dataclass(frozen=True, slots=True)
class SetWeightDecay(Edit):
    """Decay weight matrices (not biases, not normalization parameters) by this coefficient (>= 0), decoupled."""

    example_values: ClassVar[Mapping[str, Any]] = {"value": 0.01}
    value: NonNegative

    def __str__(self) -> str:
        return f"weight decay {self.value:g} on weight matrices, not on biases and normalization parameters"


@dataclass(frozen=True, slots=True)
class ClipGradients(Edit):
    """Clip gradients before each step: each entry (``value``) or the global L2 norm (``norm``) to a limit > 0."""

    example_values: ClassVar[Mapping[str, Any]] = {"kind": "norm", "limit": 1.0}
    kind: Literal["value", "norm"]
    limit: Positive

    def __str__(self) -> str:
        return f"gradients clipped by {self.kind} to {self.limit:g} before each step"


@dataclass(frozen=True, slots=True)
class ReduceOnPlateau(Edit):
    """Multiply the learning rate by a factor when the loss has not improved for a number of epochs.

    Attributes:
        factor: In (0, 1).
        patience: Epochs without improvement, >= 0.
        floor: Smallest rate ÷ the initial one, in [0, 1).
    """

    factor: Annotated[float, Range(above=0, below=1)] = 0.5
    patience: Whole = 5
    floor: Fraction = 0.01

    def __str__(self) -> str:
        return (
            f"learning rate multiplied by {self.factor:g} after {self.patience} epochs without improvement, "
            f"down to {self.floor:g} of the initial rate"
        )


@dataclass(frozen=True, slots=True)
class WarmUpRate(Edit):
    """Raise the learning rate linearly over the first ``steps`` steps (>= 1), from 1 / ``steps`` of its value."""

    example_values: ClassVar[Mapping[str, Any]] = {"steps": 2}
    steps: Count

    def __str__(self) -> str:
        return f"learning rate warmed up linearly over the first {self.steps} steps"


@dataclass(frozen=True, slots=True)
class DecayRate(Edit):
    """Lower the learning rate along half a cosine, from its initial value to ``floor`` times that at the last step.

    Attributes:
        floor: Last rate ÷ initial rate, in [0, 1).
        instead: Whether it replaces the user's schedule; otherwise a training with a schedule can't have it.
        steps: Length in optimizer steps; 0 means that of the training, which the plan of a run holds.
    """

    floor: Fraction = 0.0
    instead: bool = False
    steps: Whole = 0

    def __str__(self) -> str:
        end = f"{self.floor:g} of its initial value" if self.floor else "0"
        instead = ", in place of the original schedule" if self.instead else ""
        return f"learning rate lowered along a cosine to {end} at the last step{instead}"


@dataclass(frozen=True, slots=True)
class ExtendTraining(Edit):
    """Train this many epochs (>= 1), more than planned."""

    affects: ClassVar[str | None] = "length"
    example_values: ClassVar[Mapping[str, Any]] = {"epochs": 2}
    epochs: Count

    def __str__(self) -> str:
        return f"training for {self.epochs} epochs"


@dataclass(frozen=True, slots=True)
class TuneAdam(Edit):
    """Change how Adam and its variants divide by their second moment; None leaves a setting unchanged.

    Attributes:
        beta_2: Decay rate of the second moment, in [0, 1).
        epsilon: What is added to its root, > 0.
        clip_updates: Whether the update of a tensor is divided by the root mean square of gradient ÷ root of the
            second moment where that is above 1.
    """

    memory: ClassVar[bool] = True
    example_values: ClassVar[Mapping[str, Any]] = {"beta_2": 0.95, "epsilon": 1e-12, "clip_updates": True}
    beta_2: Fraction | None = None
    epsilon: Positive | None = None
    clip_updates: bool = False

    def __str__(self) -> str:
        settings = [
            *([] if self.beta_2 is None else [f"β2 = {self.beta_2:g}"]),
            *([] if self.epsilon is None else [f"ε = {self.epsilon:g}"]),
            *(["updates reduced where gradients exceed the second moment"] if self.clip_updates else []),
        ]
        return f"Adam: {', '.join(settings) or 'no change'}"


@dataclass(frozen=True, slots=True)
class CompleteOptimizer(Edit):
    """Give the optimizer the parameters of these layers that it lacks; of all layers where none is named."""

    memory: ClassVar[bool] = True
    layers: tuple[str, ...] = ()

    def __str__(self) -> str:
        owners = f"parameters of {join_names(self.layers)}" if self.layers else "trainable parameters"
        return f"the optimizer gets all {owners} that it lacks"


@dataclass(frozen=True, slots=True)
class StopEarly(Edit):
    """Stop after ``patience`` epochs (>= 1) without a better validation loss, and restore the best weights."""

    memory: ClassVar[bool] = True
    affects: ClassVar[str | None] = "length"
    example_values: ClassVar[Mapping[str, Any]] = {"patience": 2}
    patience: Count

    def __str__(self) -> str:
        return f"stop after {self.patience} epochs without a better validation loss, and restore the best weights"


_EXPECTED: Mapping[str, tuple[str, ...]] = {
    "cross_entropy": ("logits", "probabilities", "log_probabilities"),
    "binary_cross_entropy": ("logits", "probabilities"),
    "signed_logistic": ("logits", "probabilities", "values"),
    "squared_error": ("values", "logits", "probabilities"),
    "absolute_error": ("values", "logits", "probabilities"),
}


@dataclass(frozen=True, slots=True)
class SetLoss(Edit):
    """Train with another loss. Targets keep the user's form; the loss converts them itself.

    Attributes:
        name: ``cross_entropy`` (classes; targets are indices or one-hot), ``binary_cross_entropy`` (targets in
            [0, 1], per unit), ``signed_logistic`` (targets in {-1, 1}), ``squared_error`` or ``absolute_error``.
        expects: What the output is: ``logits``, ``probabilities``, ``log_probabilities`` or ``values``.

    Raises:
        ConfigError: If this loss can't be computed from such outputs.
    """

    affects: ClassVar[str | None] = "loss"
    example_values: ClassVar[Mapping[str, Any]] = {"name": "binary_cross_entropy", "expects": "probabilities"}
    name: Literal["cross_entropy", "binary_cross_entropy", "signed_logistic", "squared_error", "absolute_error"]
    expects: Literal["logits", "probabilities", "log_probabilities", "values"]

    def __post_init__(self) -> None:
        Edit.__post_init__(self)
        if self.expects not in _EXPECTED[self.name]:
            accepted = " or ".join(_EXPECTED[self.name])
            raise ConfigError(f"SetLoss: there is no loss {self.name} of {self.expects}: expects may be {accepted}")

    def __str__(self) -> str:
        return f"loss: {self.name.replace('_', ' ')} on {self.expects.replace('_', ' ')}"
