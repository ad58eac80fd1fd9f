"""Cases: trainings with a known fault and their fix, and how their scores are judged."""
