"""Names of the facts about data and model that diagnostics add to the measurements of a training."""

from __future__ import annotations

__all__ = ["BAD_OPERATIONS", "BAD_TENSORS", "FACTS", "NOISE_SOURCES", "NOT_PROBED", "PROBES", "PROBE_FACTS"]
__all__ += ["STATISTICS"]

PROBE_FACTS = (
    "not_probed",  # index in NOT_PROBED: why no probe ran; 0 if they did
    "probe_seconds",  # seconds that probes of a watched training took
    "failed_probes",  # sum of 2^i over the indices i in PROBES of those that failed
    # an effect is the largest change of an output, ÷ that of the outputs that the change belongs to; its noise is the
    # rounding error in the same unit
    "later_effect",  # effect of later tokens on earlier outputs
    "later_noise",  # its rounding error
    "later_reach",  # how many earlier positions the last token changed
    "earlier_effect",  # effect of earlier tokens on the last output
    "earlier_noise",  # its rounding error
    "padding_effect",  # effect of padding on the outputs of the tokens before it, ÷ that of other tokens
    "padding_noise",  # its rounding error
    "padding_masked",  # 1 if an input says which tokens are padding, else 0
    "padding_declared",  # 1 if an embedding layer declares a token as padding, else 0
    "order_effect",  # effect of another order of the tokens in the middle, ÷ that of other tokens there
    "order_noise",  # its rounding error
    "order_conflicts",  # share of targets that no model without order can fit, as equal tokens have different ones
    "order_in_inputs",  # normal quantile of a test that neighboring time steps are no more alike than others
    "predicts_next",  # 1 if the targets are the next tokens, else 0
    "repeats_input",  # 1 if they are the tokens at the same positions, of a model that does not look ahead
    "attention",  # 1 if the model computes attention weights, else 0
    "row_effect",  # effect of another row of the batch
    "row_noise",  # its rounding error
    "row_effect_without_norm",  # the same without batch normalization
    "row_order_effect",  # effect of another order of the rows of the batch on the outputs, each of its own row
    "evaluation_noise",  # root mean square of the change with other random numbers ÷ spread over rows
    "noise_source",  # index in NOISE_SOURCES
    "stable_outputs",  # number of outputs and added losses that do not change with the random numbers
    "evaluation_state",  # largest change of the outputs when the call is repeated ÷ spread over rows
    "input_fields",  # number of inputs that could be tested
    "ignored_fields",  # number of those that no output depends on
    "ignored_field",  # index of the first one in `TaskContext.input_fields`
    "input_columns",  # number of columns that could be tested
    "ignored_columns",  # number of those that no output depends on
    "ignored_column",  # index of the first one
)
"""Facts of forward passes on a copy of the model in evaluation mode: see `autotrainer.diagnostics.probes`."""

FACTS = (
    # known of the data before the training; inputs count as equal if they are bitwise equal
    "constant_targets",  # 1 if all training targets are the same, else 0
    "shared_inputs",  # distinct validation inputs that are also training inputs
    "shared_input_share",  # the same, as a share of all distinct validation inputs
    "expected_shared_share",  # that share between one part of the training data and the rest: expected by chance
    # of validation rows compared with training rows
    "validation_classes",  # classes that validation rows have
    "unseen_classes",  # classes of validation rows that no training row has
    "unseen_class_share",  # share of validation rows of these classes
    "unseen_class",  # the first of them, if there is one
    "absent_class_share",  # share of training rows of classes that no validation row has
    "class_shift",  # total variation distance of the class shares
    "class_shift_z",  # normal quantile of a test that they are the same
    "validation_scale",  # median over input features of the standard deviation ÷ that of training rows
    "validation_offset",  # the same of the difference of the means ÷ standard deviation of training rows
    "shifted_feature",  # the feature whose distribution differs most
    "feature_shift",  # its Kolmogorov–Smirnov distance
    "feature_shift_noise",  # the distance that the largest one exceeds with probability 0.001 if nothing differs
    # of a number that stands for missing values in an input table, such as -999; the one with most rows
    "missing_code",  # the number
    "missing_code_column",  # its column, from 0
    "missing_code_share",  # share of the rows that hold it
    "missing_code_low",  # smallest of the other values of the column
    "missing_code_high",  # largest of them
    "missing_code_columns",  # number of columns with such a number
    "target_shift",  # Kolmogorov–Smirnov distance of numeric targets
    # of training targets compared with those of other rows, by simple models on held-out rows
    "aligned_score",  # accuracy or R² with the targets as they are
    "misaligned_score",  # with those of the next or previous row, or in reverse order: the best
    "misaligned_lag",  # which of these: 1, -1, or 0 for the reverse order
    "alignment_trivial_score",  # of the trivial predictor
    "alignment_rows",  # number of held-out rows
    # of the outcome of a managed training, in its metric; the constant prediction is the best one on the same rows
    "above_constant",  # 1 if its score is better than that of a constant prediction by more than noise, else 0
    "metric_score",  # its score
    "constant_score",  # that of the constant prediction
    "judged_rows",  # number of rows of these scores
    "judged_in_training",  # 1 if these are training rows, as the validation rows are too few; else 0
    "permuted_loss",  # if that score is unknown: its loss if each row has the inputs of another one
    "first_loss",  # if that score is unknown, and the loss has not fallen: the loss of the first step
    # measured only if training looks suspicious; scores are accuracies or R², the trivial predictor is the most common
    # class or the mean
    "train_score",  # of the network, on training rows
    "permuted_score",  # the same with the inputs of each row replaced by those of another one
    "input_gain",  # mean over those rows of the score with their own inputs less that with those of another row
    "input_gain_error",  # its standard error
    "trivial_score",  # of the trivial predictor, on held-out (validation) rows, as all scores below
    "held_out_score",  # of the network
    "linear_score",  # of a linear model (ridge regression; on indicators of the classes), or of principal components
    "kernel_score",  # of ridge regression with a Gaussian kernel
    "neighbour_score",  # of the nearest neighbours
    "tree_score",  # of a small decision tree
    "held_out_rows",  # number of those rows, or of their time steps
    "simple_rows",  # number of training rows that these simple models were fitted on
    "simple_distinct",  # number of different rows, if held-out rows are copies of those: the data have no others
    "category_columns",  # input columns of whole numbers that the linear model takes as categories, to its gain
    "category_column",  # the one with most categories, from 0
    "category_levels",  # number of its categories
    "simple_gap",  # mean over the held-out rows of the score of the best simple model less that of the network
    "simple_gap_error",  # its standard error
    # where trainings are scored by balanced accuracy: that of simple models which weight the classes, on those rows
    "balanced_score",  # balanced accuracy of the network
    "simple_balanced_score",  # of the best simple model
    "balanced_gap",  # by how much that is higher
    "balanced_gap_low",  # the least that it certainly is
    "balanced_crossed",  # 1 if these are of training rows, which the simple models predict by cross-validation
    "simple_crossed",  # 1 if the held-out rows of these scores are training rows, which the simple models predict by
    # cross-validation, and the network has been trained on
    "suggested_rate",  # learning rate suggested by a learning-rate range test on this training
    "simple_features",  # number of features of the simple models: values of a row, or token counts
    # the first value that was not finite, if training ended in such values: see `autotrainer.records.nonfinite`
    "first_bad_step",  # step in which it arose
    "first_bad_tensor",  # index in BAD_TENSORS
    "first_bad_layer",  # row of its layer in the layer table
    "first_bad_after",  # 1 if other code makes it after that layer, or before all layers if there is none
    "first_bad_operation",  # index in BAD_OPERATIONS of the operation that produced it
    "first_bad_backward",  # 1 if that operation belongs to the backward pass
    "first_bad_half",  # 1 if its result has half precision
    "first_bad_lowest",  # smallest input of the operation
    "first_bad_highest",  # largest input
    "first_bad_nearest",  # smallest magnitude of an input; of a division, of the divisors
    # of the user's own functions for which autograd takes a backward pass from them, compared with differences
    "backward_error",  # relative error of a wrong backward pass, median over directions; of the worst one
    "backward_ratio",  # derivative by that backward pass ÷ the right one, if that is the same in all directions
    "mixed_rows",  # of a layer that takes time first: 1 if it gets rows there, 2 if it gets a mixture of rows
    "mixed_rows_layer",  # row of that layer in the layer table
    "transformed_calls",  # 1 if the model was called within a transform of torch.func
    "calls_without_step",  # 1 if the model was called with gradients, but no step of its optimizer followed
    "other_optimizer_steps",  # steps of other optimizers of the same parameters, if the watched one has taken none
    "later_optimizers",  # optimizers of the same parameters that were created during the training and took steps
    "later_steps",  # their steps
    "first_sample_waits",  # 1 if the first step was not measured, as that takes too long in a short run
    "overlap_outside",  # of an overlap loss (Dice) of raw outputs, the share of them below 0 or above 1
    "overlap_alone",  # 1 if that is the whole loss, else 0
    "reordered_steps",  # length of an axis that a reshape of the outputs exchanges with that of the classes
    "reordered_classes",  # number of classes there
    "losses_without_step",  # training losses before the first step of the optimizer, if it has never come
    "weights_changed",  # 1 if weights have changed nevertheless
    # of inputs, after a loss that was not finite
    "batches_looked_through",  # number of batches of training inputs that were checked
    "nonfinite_batches",  # number of those with values that are not finite
    # of an earlier run that this one continues, as its run log shows
    "resumed_steps",  # steps of it
    "resumed_complete",  # 1 if it ended regularly and where it was planned to, else 0
    "resumed_within_epoch",  # 1 if it ended within an epoch, 0 at the end of one
    "resumed_loss",  # median of its last losses
    "resumed_loss_noise",  # standard deviation of these, from their median absolute deviation
    "resumed_first_loss",  # median of the first losses of this run
    "resumed_rate",  # its last learning rate
    "resumed_optimizer_steps",  # steps that the memory of its optimizer counted at last
    "resumed_scheduler_steps",  # steps that its learning-rate scheduler had taken at last
    "resumed_same_batches",  # share of the first steps that had the same batches as its first steps
    # of the end of a watched training
    "compiled_layers",  # layers whose calls were compiled in the last sampled step: their activations are not measured
    "final_rate",  # learning rate of the next step that would follow
    "final_scheduler_steps",  # steps that the learning-rate scheduler has taken
    "epoch_batches",  # batches of a whole pass of the data loader
    "restarted_batches",  # the same, of a loader that begins a new pass in each step
    "dataset_batches",  # batches of the `tf.data` set of which ``take(1)`` leaves one
    "state_of_shuffled_rows",  # 1 if a recurrent layer keeps its state from batch to batch, although rows are shuffled
    "loss_scale",  # current loss scale, if steps were skipped since the last observed one
    "failed_statistics",  # sum of 2^i over the indices i in STATISTICS of those that could not be measured
    # of a data loader's workers that draw random numbers
    "workers_draw_alike",  # 1 if two workers draw the same random numbers, else 0
    "passes_draw_alike",  # 1 if the workers draw the same random numbers in each pass over the data, else 0
    "workers_read_alike",  # 1 if two workers of an iterable data set yield the same samples, else 0
    # of the processes of a distributed training, its ranks
    "ranks",  # number of all processes of the training
    "rank",  # that of this process
    "watched_ranks",  # number of those that are known to be watched, if others are not
    "unwatched_rank",  # the first one that is not, if it is known
    "late_group",  # 1 if the ranks connected only after this process was watched
    "led_by",  # the rank that reports, if this process is watched together with it, and does not
    "parted_at",  # step from which the ranks were no longer measured together
    "stages",  # number of different models that the ranks train, as stages of a pipeline
    "inner_stage",  # 1 for a stage that computes no loss
    "sharded",  # 1 if each rank holds a part of the parameters
    "nonfinite_ranks",  # number of ranks that had values that are not finite before all others
    "nonfinite_rank",  # the first of these ranks
    "nonfinite_rank_inputs",  # 1 if its inputs had such values
    # of the processes of a distributed training, compared while they trained, or by their logs
    "replicas",  # number of processes compared, including this one
    "replica_steps",  # number of steps that all of them measured
    "replica_gap",  # relative difference of weight norms at the last of these: median over layers
    "replica_worst_gap",  # the largest one
    "replica_layer",  # row of its layer
    "replica_twins",  # share of the other processes with the same batches as this one at all these steps
    # the rest only where they are compared while they train
    "replica_rank",  # the one rank whose weights differ from those of all others, which are equal
    "replica_ratio",  # norm of its weights ÷ that of the others
    "replica_gradient_rank",  # the one rank whose gradients have another norm
    "replica_gradient_ratio",  # that norm ÷ that of the others
    "twin_pairs",  # number of pairs of ranks with the same batches
    "twin_rank",  # the first rank of the first pair
    "twin_of",  # the other one
    "odd_input_scale_rank",  # the one rank whose inputs are on another scale in each step
    "odd_input_scale_ratio",  # their root mean square ÷ the median of the other ranks
    "odd_loss_rank",  # the one rank with another loss in each step
    "odd_loss_ratio",  # that loss ÷ the median of the other ranks
    *PROBE_FACTS,
)
"""Names in `TaskContext.asked`: results of diagnostics of data and model, beside the measurements of a training."""

BAD_TENSORS = ("input", "target", "output", "loss", "gradient", "weight")
"""Kinds of tensors in which values that are not finite can appear first."""

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
"""Kinds of operations that produce values that are not finite."""

STATISTICS = (
    "accuracy",
    "activation functions",
    "activations",
    "attention",
    "attention projections",
    "backward passes",
    "calls of the loss",
    "embeddings",
    "epochs",
    "features of the output layer",
    "forward pass",
    "gradient direction",
    "gradient reset",
    "gradients",
    "inputs",
    "learning rate",
    "loss",
    "loss of the backward pass",
    "loss scale",
    "loss terms",
    "modes",
    "normalization",
    "optimizer state",
    "outputs",
    "targets",
    "tied weights",
    "weight updates",
    "weights",
    "custom functions",
    "next targets",
    "padding",
    "weights of classes",
)
"""Groups of statistics, each of which is measured by itself: if one fails, all others go on. Logs hold indices: append.
"""

PROBES = ("repeatability", "row_mixing", "ignored_fields", "causality", "padding", "positions")
"""The probes, in the order in which they run."""

NOT_PROBED = (
    "",
    "the model can't be copied",
    "memory is too short for a copy of the model",
    "the inputs of its first call can't be repeated",
    "its outputs are not finite numbers",
    "the budget is too small",
    "no call of it was observed",
    "it is trained in several processes",
)
"""Reasons for which no probe runs."""

NOISE_SOURCES = ("", "random numbers", "dropout", "dropout of attention weights")
"""What draws random numbers in evaluation mode; empty for nothing that is known."""
