"""Modules that edits put into models; saved models and printed patches import them from here."""
