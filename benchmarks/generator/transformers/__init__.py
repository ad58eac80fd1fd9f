"""Faults of transformers: in attention, masks, positions, embeddings, norms, shortcuts, heads and loops."""
