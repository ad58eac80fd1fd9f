"""Findings in the formats of ``--format``: JSON with a schema, SARIF 2.1.0, and annotations of GitHub Actions."""
