"""Optimizers, schedulers and clipping."""
