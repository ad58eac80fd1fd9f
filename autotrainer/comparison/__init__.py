"""Comparison of runs with reference runs: where they part, which findings are new, whether outcomes differ."""
