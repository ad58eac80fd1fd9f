"""Applying edits to copies of models, and checking which edits are possible."""
