"""Benchmarks: detection and repair of faulty trainings, the cost of watching, and the calibration of thresholds.

Uses only the public contract of autotrainer. See ``benchmarks/README.md`` and ``python -m benchmarks --help``.
"""
