"""Passes measurements and findings on to sinks."""
