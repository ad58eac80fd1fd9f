"""Edits of a copy of the model: what is possible, and doing it."""
