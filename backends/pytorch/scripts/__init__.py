"""Watching every training of a script that knows nothing of autotrainer."""
