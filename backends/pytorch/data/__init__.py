"""The data of managed trainings: batches, targets, scaling, and edits of them."""
