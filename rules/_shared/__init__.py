"""What several rules share: the outcome of a training, statistics, and wording."""
