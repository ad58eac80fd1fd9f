"""The epochs of a watched training: where they end, and what is measured there."""
