"""Benchmarks: how well autotrainer detects and repairs faulty trainings, and what watching costs.

Uses only the public contract of autotrainer. See ``benchmarks/README.md`` and ``python -m benchmarks --help``.
"""
