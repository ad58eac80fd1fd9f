"""Lets the tests run from a bare checkout, where the mapping of setup.cfg is not in force."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import autotrainer

ROOT = Path(__file__).parent

if find_spec("autotrainer.rules") is None:
    autotrainer.__path__.append(str(ROOT))


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a process of its own, with the autotrainer of this checkout; ``environment`` by keywords."""

    def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        found = f"import runpy; runpy.run_path({str(ROOT / 'conftest.py')!r})\n{code}"
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        command = [sys.executable, "-c", found, *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)

    return run
