"""Benchmarks: how well autotrainer detects and repairs faulty trainings, and what watching costs.

Uses only the public contract of autotrainer. See ``benchmarks/README.md`` and ``python -m benchmarks --help``.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import autotrainer

if find_spec("autotrainer.rules") is None:  # run from a checkout, whose folders are mapped only when installed
    autotrainer.__path__.append(str(Path(__file__).parents[1]))
