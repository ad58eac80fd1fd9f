"""What is measured at a sampled step: the observation a backend hands over and the numbers kept of it.

A backend reduces weights, gradients and activations on the device to one table (layers by
`LAYER_COLUMNS`) and copies a few rows of inputs, outputs and targets. Everything that is computed from
those rows is computed here, in NumPy, once for all frameworks; the rows themselves are dropped.

Two values have a meaning of their own in every table: NaN is "not measured", infinity is "measured, and
not finite" (a NaN in a tensor counts as not finite).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ATTENTION_LOGITS",
    "ATTENTION_QUERIES",
    "ATTENTION_SAMPLES",
    "DORMANT",
    "LAYER_COLUMNS",
    "MASKING",
    "MAX_FEATURES",
    "MAX_RANK",
    "MAX_ROWS",
    "MAX_VALUES",
    "OFF_ZERO",
    "PROBABLE",
    "RARE",
    "SAMPLED_ENTRIES",
    "STEP_COLUMNS",
    "Floats",
    "LayerInfo",
    "Observation",
    "StepStats",
]

Floats = NDArray[np.float64]

MAX_ROWS = 256
"""Rows of inputs, outputs and targets that a backend copies at most per sampled step (the first ones)."""

MAX_FEATURES = 1024
"""Values per row of *inputs* of rank 2 that a backend copies at most: evenly strided columns."""

MAX_RANK = 64
"""Rows and features that a backend copies at most of what enters the output layer: the rank is found in 1 ms."""

MAX_VALUES = 65536
"""Values that a backend copies at most of each of inputs, outputs and targets: fewer rows, never cut rows of
outputs or targets (the class axis stays whole)."""

LAYER_COLUMNS = (
    "grad_norm",  # L2 norm of the gradients of the layer's own trainable parameters, as the optimizer gets them
    "grad_zero_fraction",  # share of entries of those gradients that are exactly zero, in [0, 1]
    "weight_norm",  # L2 norm of those parameters before the step
    "update_ratio",  # L2 norm of their change in this step / weight_norm, on `SAMPLED_ENTRIES`
    "activation_mean_abs",  # mean of |output|
    "activation_std",  # standard deviation over all entries of the output
    "activation_max_abs",  # max of |output|
    "activation_spread",  # root of the mean over units of the variance across samples: 0 = same for all inputs
    "dead_units",  # share of units that were zero on every sample of the last DEAD_WINDOW sampled batches
    "saturated",  # share of entries where a bounded activation's slope is < 1e-3 of its maximum
    "dormant",  # share of units whose mean |output| is at most DORMANT times the mean over the units of the layer
    "second_moment_ratio",  # root of the mean of g² / max(v, ε²) over such entries, see `SAMPLED_ENTRIES`
    "attention_entropy",  # mean over queries of the entropy of their attention weights / log(keys), see below
    "attention_max_logit",  # largest |q·k × scale| among the same queries and keys
)
"""Columns of the table of a step, one row a layer."""

DORMANT = 0.025
"""Share of its layer's mean up to which a unit is dormant (τ of Sokar et al., ICML 2023, section 3).

Measured where an activation other than ``linear``, ``softmax``, ``softmin`` and ``log_softmax`` has made the output, in
the row of the activation where it is a layer of its own, else in that of the layer that has it or that it is called
for. NaN in all other rows (gates make the output of LSTM and GRU), and in those of layers that are not hidden. The mean
of a unit is over samples and places (the unit axis is that of ``dead_units``), the mean of the layer over its units;
where all is zero, all are dormant.
"""

SAMPLED_ENTRIES = 4096
"""Evenly strided entries of a layer's parameters that are looked at one by one, at most.

``second_moment_ratio`` (RMS_t of Wortsman et al., arXiv 2304.13013) has g, the gradient as the optimizer
gets it; v, Adam's second moment as it divides by it in this very step: g included, bias-corrected, the running maximum
for AMSGrad; and ε, the one that Adam adds to the root. About 1 where the second moment keeps up, at most the root of
the number of steps done and of 1 / (1 - β2). NaN without such a moment.
"""

ATTENTION_SAMPLES, ATTENTION_QUERIES, ATTENTION_LOGITS = 8, 256, 2**18
"""First samples, evenly strided queries, and logits (samples × heads × queries × keys) on which attention is looked at
at most, with all heads and keys. To keep within the logits, queries are left out first, samples then.

A key is left out for a query where a mask says so: a boolean one, or one that adds `MASKING` or less. What a mask adds
otherwise counts for the weights, but not for ``attention_max_logit``. Queries that are left with fewer than two keys
are left out. The row is that of the attention layer; for `scaled_dot_product_attention` called as a function that of
the layer that made its queries, or, where that can't be told, of the layer that ran last before it.
"""

MASKING = -1e4
"""Value up to which what is added to a logit excludes its key: -1e4 (half precision), -1e9 and -inf are in use."""

DEAD_WINDOW = 5
"""Sampled batches in a row on which a unit must be zero for all samples to count as dead."""

OFF_ZERO = 1e-3
"""Distance from 0 and 1 from which probabilities tell ``binary_entropy``: what a loss makes of smaller ones (a clip, or
single precision) is its own affair."""

PROBABLE = frozenset({"sigmoid", "hard_sigmoid", "softmax"})
"""Output activations after which a loss of one's own takes outputs for probabilities. After others it takes them for
logits; where the activation is not known, outputs within 0 and 1 are probabilities."""

RARE = 0.1
"""Frequency, relative to that of the commonest class, up to which a class is rare."""

STEP_COLUMNS = (
    "loss",  # loss of the batch
    "learning_rate",  # of the first parameter group that has one above 0
    "batch_size",  # samples
    "grad_norm",  # L2 norm over all layers
    "accuracy",  # share of the copied rows that are predicted right (classification tasks)
    "squared_error",  # mean squared difference of outputs and targets (same shape, or broadcast rows)
    "crossed_error",  # the same of every output with every target: only where (rows, 1) and (rows,) would broadcast
    "absolute_error",  # mean absolute difference of outputs and targets, and the same of every output with every
    "crossed_absolute_error",  # target: both only where (rows, 1) and (rows,) would broadcast
    "binary_entropy",  # binary cross-entropy of outputs (see `OFF_ZERO`) with targets of whole numbers, and the same of
    "crossed_binary_entropy",  # every output with every target (as above): both only where the loss is one's own
    "cross_entropy",  # of outputs, probabilities or logits, over classes with one class a row: there only, too
    "rare_accuracy",  # accuracy on the copied rows of classes that are at most RARE times as frequent as the commonest
    "class_entropy",  # entropy of the classes among the copied rows, in nats (classification tasks)
    "feature_rank",  # effective rank of what enters the output layer / the largest possible one, in (0, 1]
    "gradient_cosine",  # of the angle between the gradient and that of the sampled step before, on `SAMPLED_ENTRIES`
    "stale_gradients",  # 1 if the backward pass found gradients of the step before, 0 if it found them reset
    "loss_scale",  # by which loss and gradients were multiplied in half precision; a step that overflows halves it
    "training_mode",  # 1 if dropout and batch normalization were in training mode in the forward pass, 0 if in
    # evaluation mode; NaN without such layers, and where all of them are frozen or in another mode than the model
    "output_min",
    "output_max",
    "output_row_sum",  # mean over rows of the sum over the last axis
    "output_row_sum_error",  # mean over rows of |row sum - 1|
    "output_spread",  # root of the mean over outputs of the variance across rows
    "target_spread",  # the same for targets
    "target_min",
    "target_max",
    "target_nonfinite",  # share of target values that are not finite
    "input_nonfinite",  # share of input values that are not finite
    "input_max_abs",  # of the finite ones
    # the rest describes all inputs sampled up to this step; features are columns of inputs of rank 2, and
    # one single feature for images, sequences and other inputs of higher rank
    "input_mean",
    "input_std",
    "input_offset",  # largest |mean| / std over features
    "input_scale_ratio",  # largest / smallest std over non-constant features
    "input_constant",  # share of features without any variation, in [0, 1]
)
"""Scalar columns of a step."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What is known of one layer without running it.

    Attributes:
        name: Dotted path (PyTorch) or layer name (Keras).
        kind: ``dense``, ``conv``, ``recurrent``, ``embedding``, ``attention``, ``norm``, ``activation``,
            ``dropout``, ``pool``, ``reshape`` or ``other``.
        activation: Lower-case name of the activation that its output went through (``linear`` for none),
            or None where that can't be known.
        units: Number of units (output features, channels), or None.
        parameters: Number of its own trainable parameters.
        frozen: True if it owns parameters and none of them is trainable, or all that are rest at a learning rate of 0
            while others train.
        hidden: False for the layer (and a separate activation) that makes the model's output.
        start: Form of its weight matrix before the first step seen, where that is special: ``zero``, ``constant``
            (one value), ``equal_units`` (the same for all units), ``equal_inputs`` (the same for all inputs of each
            unit); ``drawn`` where no optimizer owns it and it looks newly drawn by a usual initializer; else empty.
        unowned: Number of its own trainable parameters that no optimizer owns.
    """

    name: str
    kind: str = "other"
    activation: str | None = None
    units: int | None = None
    parameters: int = 0
    frozen: bool = False
    hidden: bool = True
    start: str = ""
    unowned: int = 0


@dataclass(slots=True)
class Observation:
    """What a backend saw at one sampled step.

    Attributes:
        step: 0-based optimizer step.
        loss: Loss of the batch; NaN if unknown, infinity if not finite.
        learning_rate: Of the first parameter group that has one above 0; NaN if unknown.
        batch_size: Samples; NaN if unknown.
        layers: Table of shape (layers, len(LAYER_COLUMNS)).
        inputs: First rows of the input, shape (rows, features...), or None.
        outputs: First rows of the output, shape (rows, ...), or None.
        targets: First rows of the targets, shape (rows, ...), in the user's form, or None.
        losses: (step, loss) pairs of steps since the last observation whose loss is known.
        features: What enters the output layer, the last dense layer, where other layers with parameters come before
            it: shape (rows, features), both evenly strided and at most `MAX_RANK`. Samples and time steps are rows
            alike. Else None.
        scalars: Further `STEP_COLUMNS` that the backend measures by itself, by name.
    """

    step: int
    layers: Floats
    loss: float = float("nan")
    learning_rate: float = float("nan")
    batch_size: float = float("nan")
    inputs: NDArray[Any] | None = None
    outputs: NDArray[Any] | None = None
    targets: NDArray[Any] | None = None
    losses: Sequence[tuple[int, float]] = field(default_factory=tuple)
    features: NDArray[Any] | None = None
    scalars: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StepStats:
    """The numbers kept of one sampled step.

    Attributes:
        step: 0-based optimizer step.
        epoch: 0-based epoch.
        scalars: Shape (len(STEP_COLUMNS),).
        layers: Shape (layers, len(LAYER_COLUMNS)).
    """

    step: int
    epoch: int
    scalars: Floats
    layers: Floats
