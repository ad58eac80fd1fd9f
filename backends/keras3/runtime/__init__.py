"""The process and its engine: random states, process settings, tensors, saving, private names of Keras."""
