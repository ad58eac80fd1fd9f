"""What several rules share: outcome, pace, trends, words."""
