"""The closed vocabulary of edits: the smallest changes that a repair is made of.

An edit is a frozen record of plain values. It says what is to be different, never how: backends know that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from autotrainer.errors import ConfigError, nearest

__all__ = [
    "EDITS",
    "INITIALIZER",
    "AddDropout",
    "AddInputNoise",
    "ClipGradients",
    "Edit",
    "InsertNormalization",
    "ReduceOnPlateau",
    "Reinitialize",
    "ScaleInputs",
    "SetBatchSize",
    "SetLearningRate",
    "SetLoss",
    "SetMomentum",
    "SetOutputActivation",
    "SetWeightDecay",
    "StopEarly",
    "SwapActivation",
    "SwapOptimizer",
    "edit_from_dict",
    "initializer_for",
]

Activation = Literal[
    "linear", "relu", "selu", "elu", "leaky_relu", "thresholded_relu", "gelu", "tanh", "sigmoid", "softmax"
]
Optimizer = Literal["sgd", "adam", "adamw", "nadam", "adamax", "rmsprop"]
Initializer = Literal["he_uniform", "he_normal", "lecun_normal", "glorot_uniform", "glorot_normal", "orthogonal"]

INITIALIZER: Mapping[str, Initializer] = {
    "relu": "he_uniform",
    "leaky_relu": "he_uniform",
    "thresholded_relu": "he_uniform",
    "elu": "he_uniform",
    "gelu": "he_uniform",
    "silu": "he_uniform",
    "selu": "lecun_normal",
    "tanh": "glorot_uniform",
    "sigmoid": "glorot_uniform",
    "linear": "glorot_uniform",
    "softmax": "glorot_uniform",
}
"""Initializer by activation: He et al. 2015 (1502.01852), Klambauer et al. 2017 (1706.02515, section 3) for SELU,
Glorot and Bengio 2010 for the symmetric ones."""


def initializer_for(activation: str | None) -> Initializer:
    """Return the initializer that suits an activation, by `INITIALIZER`; Glorot uniform for any other or none."""
    return INITIALIZER.get(activation or "linear", "glorot_uniform")


@dataclass(frozen=True, slots=True)
class Edit:
    """Base of all edits."""

    change: ClassVar[int] = 0
    """How far it changes the training: 0 settings only, 1 weights and activations, 2 inserted layers, 3 more."""
    memory: ClassVar[bool] = False
    """Whether it takes more memory than the training as given."""
    says_first: ClassVar[str | None] = None
    """What the user must know first: ``input``, ``output``, ``loss``, ``data``, ``length`` or ``architecture``."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold; ``edit`` is the kind."""
        return {"edit": type(self).__name__, **asdict(self)}


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
class SetBatchSize(Edit):
    """Train with batches of this many samples."""

    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "data"
    size: int


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


@dataclass(frozen=True, slots=True)
class SetOutputActivation(Edit):
    """Give the output this activation in place of the one it has (``linear`` removes it)."""

    change: ClassVar[int] = 1
    says_first: ClassVar[str | None] = "output"
    to: Activation


@dataclass(frozen=True, slots=True)
class SwapActivation(Edit):
    """Give hidden layers another activation and draw their weights anew with the initializer that suits it.

    ``layers`` are layers as `LayerInfo.name` names them: those whose ``activation`` it is, fused or separate.
    ``reinitialize`` False keeps the weights.
    """

    change: ClassVar[int] = 1
    layers: tuple[str, ...]
    to: Activation
    reinitialize: bool = True


@dataclass(frozen=True, slots=True)
class Reinitialize(Edit):
    """Draw the weights of these layers anew; biases become zero."""

    change: ClassVar[int] = 1
    layers: tuple[str, ...]
    scheme: Initializer


@dataclass(frozen=True, slots=True)
class InsertNormalization(Edit):
    """Normalize the pre-activations of these layers: ``batch``, ``layer`` or ``group`` normalization."""

    change: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    kind: Literal["batch", "layer", "group"] = "batch"


@dataclass(frozen=True, slots=True)
class AddDropout(Edit):
    """Drop activations of these hidden layers at this rate in (0, 1) while training."""

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "architecture"
    layers: tuple[str, ...]
    rate: float


@dataclass(frozen=True, slots=True)
class AddInputNoise(Edit):
    """Add Gaussian noise to the inputs while training; ``std`` in units of the inputs' standard deviation."""

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "architecture"
    std: float


@dataclass(frozen=True, slots=True)
class ScaleInputs(Edit):
    """Standardize the inputs inside the model: (x - mean) / std.

    Without numbers they are fitted on the training data when the training is built, per feature for inputs of
    rank 2 and globally otherwise; the plan of a run holds the fitted numbers.
    """

    change: ClassVar[int] = 2
    says_first: ClassVar[str | None] = "input"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


EDITS: Mapping[str, type[Edit]] = {
    cls.__name__: cls
    for cls in (
        SetLearningRate,
        SwapOptimizer,
        SetMomentum,
        SetWeightDecay,
        ClipGradients,
        ReduceOnPlateau,
        SetBatchSize,
        StopEarly,
        SetLoss,
        SetOutputActivation,
        SwapActivation,
        Reinitialize,
        InsertNormalization,
        AddDropout,
        AddInputNoise,
        ScaleInputs,
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
