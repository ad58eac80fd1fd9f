"""Managed trainings, for `autotrainer.fit`: initial state, edits, callbacks, training loop, evaluation."""
