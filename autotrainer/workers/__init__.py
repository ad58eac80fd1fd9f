"""Trainings in other processes, and the journal from which an interrupted search resumes."""
