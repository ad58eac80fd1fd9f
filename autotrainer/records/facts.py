"""What can be asked of data and model besides a training's measurements: names, and numbers of what has no number."""

from __future__ import annotations

__all__ = ["BAD_OPERATIONS", "BAD_TENSORS", "FACTS"]

FACTS = (
    # known of the data before the training; inputs are equal where they are to the bit
    "constant_targets",  # 1 if all training targets are the same, else 0
    "shared_inputs",  # different validation inputs that are training inputs too
    "shared_input_share",  # the same, as a share of all different validation inputs
    "expected_shared_share",  # such a share between a part of the training data and the rest of it: what chance gives
    # asked on suspicion; scores are accuracies or R², the trivial one is that of the commonest class, or of the mean
    "train_score",  # of the network, on training rows
    "permuted_score",  # the same where each row has the inputs of another one
    "input_gain",  # mean over those rows of how much better the own inputs are than those of another row
    "input_gain_error",  # its standard error
    "trivial_score",  # of the trivial predictor, on held-out (validation) rows; so are all that follow
    "held_out_score",  # of the network
    "linear_score",  # of a linear model (ridge regression; on indicators of the classes)
    "neighbour_score",  # of the nearest neighbours
    "tree_score",  # of a small tree; only where scikit-learn is installed
    "held_out_rows",  # rows that these were scored on
    "suggested_rate",  # learning rate that a range test on the training as given ends with
    "simple_features",  # features that the simple models saw: values of a row, or counts of tokens
    # of the first value that is not finite, where a training ended in such values: see `autotrainer.records.nonfinite`
    "first_bad_step",  # step in which it arose
    "first_bad_tensor",  # number in BAD_TENSORS
    "first_bad_layer",  # row of its layer
    "first_bad_after",  # 1 if it is made by other code after that layer, or before all layers if there is none
    "first_bad_operation",  # number in BAD_OPERATIONS of what it came out of
    "first_bad_backward",  # 1 if that belongs to the backward pass
    "first_bad_half",  # 1 if its result has half precision
    "first_bad_lowest",  # smallest value that went into it
    "first_bad_highest",  # largest value
    "first_bad_nearest",  # magnitude of what came closest to 0, of a division's divisors
    # of inputs, after a loss that is not finite
    "batches_looked_through",  # batches of training inputs that were looked through
    "nonfinite_batches",  # those of them with values that are not finite
    "loss_scale",  # the scale of the loss now, where steps were given up since the one that was last seen
    # of a data loader's workers, where they draw random numbers: 1 if two of them draw the same ones, else 0
    "workers_draw_alike",
    "passes_draw_alike",  # 1 if the workers draw the same ones in each pass over the data, else 0
    "workers_read_alike",  # 1 if two workers of an iterable data set yield the same samples, else 0
    # of the other processes of a distributed training, whose logs were compared with this one's
    "replicas",  # number of processes compared, with this one
    "replica_steps",  # steps that all of them have measured
    "replica_gap",  # relative difference of weight norms at the last of these: median over layers
    "replica_worst_gap",  # the largest one
    "replica_layer",  # row of its layer
    "replica_twins",  # share of the other processes that had the same batches as this one at all these steps
)
"""What a question to data or model can tell besides a training's measurements: names in `TaskContext.asked`."""

BAD_TENSORS = ("input", "target", "output", "loss", "gradient", "weight")
"""Tensors in which values that are not finite can be seen first."""

BAD_OPERATIONS = (
    "unknown",
    "overflow",  # of products and sums
    "exponential",
    "logarithm",
    "root",
    "division",
    "deviation",  # division by a norm, a variance or a standard deviation
    "softmax",  # over values that are all -inf
)
"""Operations that values that are not finite come out of."""
