"""The layer table of a sampled step: activations, gradients, weights, attention."""
