"""Data of the cases: read from files, or made."""
