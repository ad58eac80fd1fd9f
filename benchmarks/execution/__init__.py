"""Runs tasks in processes of their own, and keeps their rows."""
