"""Builds the programs that cases describe, in each framework."""
