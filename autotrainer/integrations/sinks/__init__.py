"""Sinks for `autotrainer.watch`: one tracker, or one format, a file."""
