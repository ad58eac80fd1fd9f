"""The data of managed trainings: batches, loaders, targets, scaling, and edits of them."""
