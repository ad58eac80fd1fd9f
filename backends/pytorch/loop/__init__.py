"""Trainings in the user's own loop: `autotrainer.Loop`."""
