"""Watching a training that the user runs: counting steps, tracking the loss, measuring sampled steps."""
