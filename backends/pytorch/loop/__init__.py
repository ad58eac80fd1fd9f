"""Trainings in the user's own loop, for `autotrainer.Loop`."""
