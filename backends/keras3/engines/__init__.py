"""What differs between the TensorFlow, torch and JAX engines: how a training step is recorded."""
