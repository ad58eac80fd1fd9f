"""How good a training is: metrics, their noise, and which one judges."""
