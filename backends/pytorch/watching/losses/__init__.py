"""The losses of a watched training: how each is found, and which are kept."""
