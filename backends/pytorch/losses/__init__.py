"""What the autograd graph shows of a loss: its functions and terms, its outputs and targets."""
