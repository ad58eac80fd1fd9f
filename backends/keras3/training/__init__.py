"""Managed trainings inside `fit`: the trainer, callbacks, evaluation, pausing."""
