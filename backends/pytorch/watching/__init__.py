"""Watching a training that the user runs: which step it is, what the loss was, when to sample."""
