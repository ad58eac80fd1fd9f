"""Recording a training step on the TensorFlow, torch and JAX engines."""
