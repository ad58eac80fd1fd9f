"""What notebooks show: of reports and findings, and of a training while its cell runs."""
