"""Layers of one kind in repeated blocks: which they are, and which of them is apart from the others."""
