"""Generates pairs of a faulty and a healthy training."""
