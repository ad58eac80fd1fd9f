"""Modules that repairs put into models, and what printed patches import; saved models name them."""
