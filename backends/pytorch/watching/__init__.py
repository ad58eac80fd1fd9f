"""Watching a training that the user runs: hooks, losses, modes, sampled steps."""
