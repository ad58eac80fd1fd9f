"""Builds and trains the programs of the cases in each framework."""
