"""Scoring a training: metrics, their noise, and their selection."""
