"""Watching every training of a script that does not use autotrainer."""
