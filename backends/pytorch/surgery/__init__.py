"""Edits of a model: planning which are possible, and applying them."""
