"""Data of the cases: read from files, built in, or synthetic."""
