"""What is known about a model and its loss without training: description, operations, losses, module paths."""
