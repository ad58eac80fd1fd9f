"""What the processes of a distributed training, its ranks, tell each other of a sampled step."""

from __future__ import annotations

__all__ = ["RANK_COLUMNS"]

RANK_COLUMNS = (
    "present",  # 1 if the rank has measured the step
    "position",  # collective operations since the first sampled step: equal at the same point of the training
    "loss",  # loss of its own batch
    "grad_norm",  # L2 norm of the gradients that it passes to its optimizer: of what it holds of them
    "weight_norm",  # L2 norm of the weights that it holds
    "nonfinite_loss",  # 1 + the first step whose loss was not finite, counted from the first sampled one; 0: none was
    "nonfinite_inputs",  # 1 if its inputs held values that are not finite
    "nonfinite_outputs",  # 1 if activations of a layer were not finite
    "input_scale",  # root mean square of its inputs
    "batch",  # checksum of rows of its inputs and targets; NaN if there are none
)
"""Columns of the table with a row for each rank; NaN: not measured."""
