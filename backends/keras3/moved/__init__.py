"""Modules by the paths that saved models and pasted patches of version 0.1 name; nothing new goes here."""
