"""Measurements of a sampled step: the observation that a backend passes on, and the statistics kept of it.

A backend reduces weights, gradients and activations on the device to one table (layers by `LAYER_COLUMNS`) and copies
a few rows of inputs, outputs and targets. Everything derived from those rows is computed in NumPy by
`autotrainer.monitoring.summary`, once for all frameworks; the rows themselves are discarded.

Two values are special in every table: NaN means "not measured", infinity means "measured, but not finite" (a NaN in a
tensor counts as not finite).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ALL_PAIRS",
    "ATTENTION_LOGITS",
    "ATTENTION_QUERIES",
    "ATTENTION_SAMPLES",
    "DORMANT",
    "LAYER_COLUMNS",
    "LOOKUPS",
    "LOOKUP_ROWS",
    "LOOKUP_STEPS",
    "LOOKUP_VALUES",
    "MASK_LOGIT",
    "MAX_DISTINCT",
    "MAX_FEATURES",
    "MAX_RANK",
    "MAX_ROWS",
    "MAX_TERMS",
    "MAX_VALUES",
    "NORM_COLUMNS",
    "NORM_GROUPS",
    "PARTS",
    "RARE_CLASS_RATIO",
    "REMAINDER",
    "SAMPLED_ENTRIES",
    "STEP_COLUMNS",
    "Floats",
    "LayerInfo",
    "Observation",
    "StepStats",
    "linear_layers",
]

Floats = NDArray[np.float64]

MAX_ROWS = 256
"""Maximum number of rows of inputs, outputs and targets that a backend copies per sampled step (the first ones)."""

MAX_FEATURES = 1024
"""Maximum number of values per row of *inputs* of rank 2 that a backend copies: evenly strided columns."""

MAX_RANK = 64
"""Maximum number of rows and of features of the output layer's input that a backend copies: its rank takes 1 ms."""

MAX_VALUES = 65536
"""Maximum number of values that a backend copies of each of inputs, outputs and targets. Rows of outputs and targets
are dropped, never truncated: the class axis stays complete."""

MAX_DISTINCT = 4096
"""Maximum number of different rows of inputs that are counted of a run."""

MAX_TERMS = 32
"""Maximum number of terms of the loss that are kept of a run: the first ones."""

LAYER_COLUMNS = (
    "grad_norm",  # L2 norm of the gradients of the layer's own trainable parameters, as passed to the optimizer
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
    "lookups_without_gradient",  # share of an embedding's rows that occur in the batch whose gradient is exactly zero
    "frequent_rows",  # number of rows that occurred in at least `LOOKUP_STEPS` sampled steps
    "rows_without_gradient",  # number of those that never had a gradient in a sampled step
    "rows_of_zero",  # number of those that occur in the batch and are all zero
    "typical_row_gradient",  # median ÷ largest gradient norm of the rows that occur in the batch
    "padding_between",  # share of the lookups of the padding index that stand alone between two others of a row
    "rising_indices",  # share of neighbouring indices of a row of which the second is the first plus 1
    "equal_indices",  # share of them that are equal
    "position_grad_norm",  # L2 norm of the gradients of parameters that `measurement.names_positions` recognizes
    "head_entropy_min",  # smallest over heads of their mean attention entropy / log(keys), see `ATTENTION_LOGITS`
    "head_entropy_max",  # largest over heads
    "narrowest_head",  # 0-based number of the head with the smallest entropy
    "widest_head",  # and of the one whose logits vary least
    "head_logit_std_min",  # smallest over heads of the root mean square over queries of the logits' deviation over keys
    "head_logit_std",  # median over heads of the same
    "second_moment_ratio",  # root of the mean of g² / max(v, ε²) over such entries, see `SAMPLED_ENTRIES`
    "attention_entropy",  # mean over queries of the entropy of their attention weights / log(keys), see below
    "attention_max_logit",  # largest |q·k × scale| among the same queries and keys
    "attention_ahead",  # their weight on later keys, over the last quarter of as many queries as keys
    "padding_shown",  # 1 if all keys that a mask shows are of one token, and those it hides of others, as of padding
    "weight_rms",  # root mean square of those of the layer's own parameters that have two axes or more, before the
    # step: of the trainable ones, or of frozen ones if it has no other
    "weight_grad_rms",  # root mean square of their gradients
    "query_rms",  # as weight_rms, for the part of an attention layer's weights that makes the queries, see `PARTS`
    "key_rms",
    "value_rms",
    "projection_rms",
    "query_grad_rms",  # root mean square of the gradient of that part
    "key_grad_rms",
    "value_grad_rms",
    "projection_grad_rms",
    "normalized_rms",  # of a normalization's output before scale and bias, see `NORM_COLUMNS`
    "normalized_peak",
    "scale_rms",  # root mean square of a normalization's scale, frozen or not
    "bias_rms",  # the same for the bias of a normalization; of other layers, for their trainable vectors
)
"""Columns of the layer table of a step: one row per layer."""

PARTS = ("query", "key", "value", "projection")
"""Parts of an attention layer, as columns ``<part>_rms`` and ``<part>_grad_rms`` name them.

Measured for layers whose weights hold several of them: queries, keys and values in one matrix
(`autotrainer.records.measurement.fused_axis`), or an attention layer that is a single row of the table. ``projection``
is the one that makes the layer's output.
"""

NORM_COLUMNS = ("normalized_rms", "normalized_peak", "scale_rms", "bias_rms")
"""Columns that are measured for normalization layers alone.

A normalization makes groups of values (all features of a position, all values of a channel) whose root mean square is
1, less what the constant ε takes away, then multiplies by a scale and adds a bias. ``normalized_rms`` is the upper
quartile over groups of that root mean square, which rows of padding, all zero, do not change; ``normalized_peak`` is
the largest, NaN for statistics of other batches (batch normalization in evaluation mode). At most `NORM_GROUPS` evenly
strided groups are measured; where scale and bias make it inexact, nothing is.
"""

NORM_GROUPS = 1024
"""Groups of a normalization's output that are measured, at most."""

DORMANT = 0.025
"""Share of its layer's mean up to which a unit is dormant (τ of Sokar et al., ICML 2023, section 3).

Measured for outputs of any activation but ``linear``, ``softmax``, ``softmin`` and ``log_softmax``: in the row of the
activation if it is a separate layer, else in that of the layer that has it or that it is called for. NaN in all other
rows (LSTM and GRU outputs come from gates) and for layers that are not hidden. The mean of a unit is taken over samples
and positions (the unit axis is that of ``dead_units``), the mean of the layer over its units; if all outputs are zero,
all units are dormant.
"""

SAMPLED_ENTRIES = 4096
"""Maximum number of evenly strided entries of a layer's parameters that are compared one by one.

In ``second_moment_ratio`` (RMS_t of Wortsman et al., arXiv 2304.13013), g is the gradient passed to the optimizer; v is
Adam's second moment as used in this very step: including g, bias-corrected, the running maximum for AMSGrad; ε is the
constant that Adam adds to the root. The ratio is about 1 while the second moment keeps up, and at most the root of the
number of steps and of 1 / (1 - β2). NaN for optimizers without a second moment.
"""

LOOKUPS, LOOKUP_VALUES, LOOKUP_ROWS, LOOKUP_STEPS = 1024, 2**18, 64, 5
"""An embedding is measured on at most so many evenly strided lookups of its last call, and on at most so many values of
their rows. Each row counts once, that of the padding index never. The order of indices is that along the last axis of
at most `LOOKUP_ROWS` sequences; it is unknown for a single index, and ``padding_between`` for few of them.
"""

ATTENTION_SAMPLES, ATTENTION_QUERIES, ATTENTION_LOGITS = 8, 256, 2**18
"""Attention is measured on the first samples, on evenly strided queries, and on at most so many logits (samples × heads
× queries × keys), with all heads and keys. To stay within the logits, queries are dropped first, then samples.

A key is excluded for a query by a boolean mask, or by one that adds `MASK_LOGIT` or less. Any other value that a mask
adds counts for the weights, but not for ``attention_max_logit``. Queries with fewer than two keys are excluded, for
``attention_ahead`` those without any; it is not measured for a softmax alone, as a mask may follow. ``padding_shown``
needs a mask, and indices of an embedding in the same step, one for each key of each sample. The row is that of the
attention layer; for `scaled_dot_product_attention` called as a function, that of the layer that made its queries, or,
if that is unknown, of the layer that ran last before it.
"""

MASK_LOGIT = -1e4
"""A mask value up to this excludes its key: -1e4 (half precision), -1e9 and -inf are in use."""

DEAD_WINDOW = 5
"""Number of consecutive sampled batches on which a dead unit is zero for every sample."""

REMAINDER = "remainder"
"""Name of the sum of all terms of a loss whose functions are unknown."""

RARE_CLASS_RATIO = 0.1
"""A class is rare up to this frequency relative to that of the most common class."""

ALL_PAIRS = 2.0
"""``crossed_shapes`` of a loss that is a mean over all pairs of an output and a constant."""

STEP_COLUMNS = (
    "loss",  # loss of the batch
    "data_loss",  # mean over rows of the loss of the copied outputs, if observed by itself: without weights of rows,
    # losses of other outputs and penalties, never a sum
    "learning_rate",  # of the first parameter group that has one above 0
    "batch_size",  # samples
    "grad_norm",  # L2 norm over all layers
    "accuracy",  # share of the copied rows that are predicted correctly (classification tasks)
    "squared_error",  # mean squared difference of outputs and targets (same shape, or broadcast rows); of
    # probabilities, if the loss is a binary cross-entropy on logits
    "crossed_error",  # the same between every output and every target: only if (rows, 1) and (rows,) would broadcast,
    # or for a custom loss, which may squeeze one of them, if a row has one output and one target
    "absolute_error",  # mean absolute difference of outputs and targets, only if they would broadcast like that, or
    # for a custom loss
    "crossed_absolute_error",  # the same between every output and every target, under the same condition
    "binary_entropy",  # binary cross-entropy of outputs and targets of the same size, only for a custom loss
    "crossed_binary_entropy",  # the same between every output and every target, only if a row has one of each
    "cross_entropy",  # cross-entropy of outputs with classes (of rows or time steps), only for a custom loss
    "crossed_shapes",  # 1 if the loss received shapes (n,) and (n, 1), which broadcast to (n, n); `ALL_PAIRS` if its
    # autograd graph proves that it is a mean over all pairs of an output and a constant; else 0
    "direct_loss",  # 1 if the one call of the loss received the output of the model itself; 0 if something made of it,
    # or if there are several calls a step, of which the last one is measured
    "targets_ignored",  # 1 if the graph of the loss proves that it does not depend on the targets, 0 if it does
    "entropy_of_logits",  # 1 if the cross-entropy closest to the loss takes the outputs as logits, 0 as probabilities
    "rare_accuracy",  # accuracy on the copied rows, labels or time steps of rare classes, see `RARE_CLASS_RATIO`
    "class_entropy",  # entropy of the classes among the copied rows, in nats (classification tasks)
    # of weights that the loss gives the rows by their class: known of all rows sampled up to this step, else NaN
    "weight_slope",  # slope of the logarithm of a class's weight over that of its number of rows: -1 if all classes
    # count alike, 0 for equal weights, 1 if the weights are proportional to the numbers of rows
    "weight_correlation",  # correlation of these logarithms
    "weight_ratio",  # weight of the most common class ÷ that of the rarest
    "class_ratio",  # number of rows of the most common class ÷ that of the rarest, of those with a weight above 0
    "repeated_targets",  # number of outputs of each row that are compared with the same target; NaN if targets differ
    "last_error",  # share of wrong classes, or mean squared error, of the last of these outputs
    "mean_error",  # the same of all of them
    "padded_targets",  # share of the class indices of sequences that belong to padding, although the loss counts them
    "feature_rank",  # effective rank of the output layer's input / the largest possible one, in (0, 1]
    "second_derivative",  # largest magnitude of the outputs' derivatives of order 2 or more by the inputs, if computed
    "gradient_cosine",  # cosine between the gradients of this and the previous sampled step, on `SAMPLED_ENTRIES`
    "stale_gradients",  # 1 if the backward pass started from gradients of the previous step, 0 if they were reset
    "backward_passes",  # backward passes whose gradients the step adds up, since they were reset
    "loss_factor",  # mean over these passes of the constant that the loss is multiplied by, but for ``loss_scale``
    "gradient_factor",  # gradient that the optimizer takes / what the passes left: below 1 if it is clipped or divided
    "discarded_passes",  # backward passes of the step whose gradients were reset before it, at least
    "outside_parameters",  # trainable entries that the outputs depend on, in neither model nor optimizer, and unchanged
    "outside_drawn",  # 1 if they have the weights of an initializer, else 0
    "loader_batches",  # batches that the data loader has delivered in the epoch so far
    "optimizer_steps",  # steps that the optimizer's memory counts, this one included; NaN if it has no counter
    "scheduler_steps",  # steps that the learning-rate scheduler has taken
    "loss_scale",  # factor on loss and gradients in half precision; a step that overflows halves it
    "training_mode",  # 1 if dropout and batch normalization were in training mode in the forward pass, 0 if in
    # evaluation mode; NaN without such layers, or if all of them are frozen or in another mode than the model
    "output_min",
    "output_max",
    "output_row_sum",  # mean over rows of the sum over the last axis
    "output_row_sum_error",  # mean over rows of |row sum - 1|
    "output_spread",  # root of the mean over outputs of the variance across rows
    "target_spread",  # the same for targets
    "target_min",
    "target_max",
    "next_targets",  # of sequences: 1 if targets are the inputs one step later, 2 if of the same step, else 0
    "target_nonfinite",  # share of target values that are not finite
    "input_nonfinite",  # share of input values that are not finite
    "input_max_abs",  # of the finite ones
    # the rest describes all inputs sampled up to this step; features are columns of inputs of rank 2; images,
    # sequences and other inputs of higher rank count as a single feature
    "input_mean",
    "input_std",
    "input_offset",  # largest |mean| / std over features, where std is at least the root mean square of all
    "input_scale_ratio",  # largest / smallest std over non-constant features
    "input_constant",  # share of features without any variation, in [0, 1]
    "input_rounded",  # share of features so large that their number format hardly tells their values apart, in [0, 1]
    "distinct_rows",  # number of different rows, bit by bit, at most `MAX_DISTINCT`
)
"""Scalar columns of a step."""


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """Static properties of one layer, known without running it.

    Attributes:
        name: Dotted path (PyTorch) or layer name (Keras).
        kind: ``dense``, ``conv``, ``recurrent``, ``embedding``, ``attention``, ``norm``, ``activation``,
            ``dropout``, ``pool``, ``reshape`` or ``other``.
        activation: Lower-case name of the activation applied to its output (``linear`` for none), or None if
            unknown.
        units: Number of units (output features, channels), or None.
        inputs: Number of input features or channels of each unit, or None.
        parameters: Number of its own trainable parameters.
        frozen: True if it has parameters and none of them is trainable, or all trainable ones have a learning rate of
            0 while others train.
        hidden: False for the layer (and a separate activation) that makes the model's output.
        origin: What its weights look like before the first observed step: ``drawn`` (as if drawn independently from one
            distribution, or constant), ``trained`` (not so), or empty if unknown.
        tied_to: Name of the embedding whose table its weights are, or should be; empty if there is none.
        tie: ``kept`` if they are one parameter; if they are not: ``lost`` (they were before), ``equal`` (they had the
            same initial values), ``declared`` (the model's configuration ties them); empty without any.
        start: Pattern of its weight matrix before the first observed step: ``zero``, ``constant`` (one value),
            ``equal_units`` (the same for all units), ``equal_inputs`` (the same for all inputs of each unit),
            ``drawn`` (freshly initialized, and frozen or owned by no optimizer), or empty for none of these.
        unowned: Number of its own trainable parameters that no optimizer owns.
        averaging: Share of each batch in the running statistics of a batch normalization, which evaluations use:
            ``momentum`` of PyTorch, 1 − ``momentum`` of Keras. None for other layers, and if all batches count alike.
    """

    name: str
    kind: str = "other"
    activation: str | None = None
    units: int | None = None
    parameters: int = 0
    frozen: bool = False
    hidden: bool = True
    origin: str = ""
    tied_to: str = ""
    tie: str = ""
    start: str = ""
    unowned: int = 0
    inputs: int | None = None
    averaging: float | None = None


_LINEAR_KINDS = ("dense", "reshape", "norm", "dropout")


def linear_layers(layers: Iterable[LayerInfo]) -> tuple[LayerInfo, ...]:
    """Return the hidden dense layers if only layers without an activation lead to the output, else an empty tuple.

    A model of a single layer has none: it is linear on purpose.
    """
    hidden = [layer for layer in layers if layer.hidden]
    if any(layer.kind not in _LINEAR_KINDS or layer.activation != "linear" for layer in hidden):
        return ()
    return tuple(layer for layer in hidden if layer.kind == "dense")


@dataclass(slots=True)
class Observation:
    """The measurements of one sampled step, as a backend passes them on.

    Attributes:
        step: 0-based optimizer step.
        loss: Loss of the batch; NaN if unknown, infinity if not finite.
        learning_rate: Learning rate of the first parameter group with one above 0; NaN if unknown.
        batch_size: Number of samples; NaN if unknown.
        layers: Table of shape (layers, len(LAYER_COLUMNS)).
        inputs: First rows of the input, shape (rows, features...), or None.
        outputs: First rows of the output, shape (rows, ...), or None.
        targets: First rows of the targets, shape (rows, ...), in the user's form, or None.
        losses: (step, loss) pairs of steps since the last observation whose loss is known.
        features: Input of the output layer (the last dense layer), if other layers with parameters come before it:
            shape (rows, features), both evenly strided and at most `MAX_RANK`; samples and time steps are both rows.
            Else None.
        scalars: Further `STEP_COLUMNS` that the backend measures itself, by name.
        terms: Terms of the loss by name, weighted as they are added: NaN if unknown, infinity if not finite. Empty for
            a loss of a single term.
        weights: Weights of the copied targets in the loss, shape (rows,) or that of the targets; None if they are equal
            or unknown.
        labels: First class indices of a batch of sequences, whose number `MAX_ROWS` does not limit: shape (sequences,
            steps); `autotrainer.records.task.MASKED` where the loss does not count them. None if unknown.
        tokens: First rows of the input, if that is indices of an embedding and ``inputs`` does not hold it, else None.
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
    terms: Mapping[str, float] = field(default_factory=dict)
    weights: NDArray[Any] | None = None
    labels: NDArray[Any] | None = None
    tokens: NDArray[Any] | None = None


@dataclass(frozen=True, slots=True)
class StepStats:
    """The statistics kept of one sampled step.

    Attributes:
        step: 0-based optimizer step.
        epoch: 0-based epoch.
        scalars: Shape (len(STEP_COLUMNS),).
        layers: Shape (layers, len(LAYER_COLUMNS)).
        terms: Terms of the loss by name, as in `Observation`.
    """

    step: int
    epoch: int
    scalars: Floats
    layers: Floats
    terms: Mapping[str, float] = field(default_factory=dict)
