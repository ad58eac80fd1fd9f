"""Watching one training: sampling steps, keeping the history, evaluating the rules."""
