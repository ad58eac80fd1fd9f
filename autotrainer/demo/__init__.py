"""The published demo cases of AUTOTRAINER, and their data."""
