"""What is known of a model, its layers and its loss without training it, and copies of models."""
