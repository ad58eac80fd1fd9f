"""Plain data about a training: signals, history, task, facts and findings."""
