"""Managed trainings inside `fit`."""
