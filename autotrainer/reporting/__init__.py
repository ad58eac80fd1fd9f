"""Reports, results and repair plans, as text, HTML, JSON and code patches."""
