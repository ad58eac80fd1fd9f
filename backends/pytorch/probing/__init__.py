"""Copies of models that probes run forward passes on."""
