"""Statistics of a sampled step, as rows of the layer table: activations, gradients, weights, attention."""
