"""Runs tasks in separate processes and stores their rows."""
