"""What is known of a training, as plain data: signals, history, task, facts, findings."""
