"""One managed training: its budget, its hold-out split, its run and its outcome."""
