"""The data of managed trainings: batches, targets, sample weights, scaling, and edits of them."""
