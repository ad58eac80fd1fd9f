"""Watching one training: samples in, history kept, rules evaluated, findings out."""
