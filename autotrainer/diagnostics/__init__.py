"""Experiments on copies that name a cause: baseline models, learning rates, overlap, the first non-finite value."""
