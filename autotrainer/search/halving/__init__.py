"""Successive halving: many short trainings, of which the best are continued."""
