"""One managed training: its budget, its held-out rows, its run and what came of it."""
