"""Importing autotrainer imports no framework or other large package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "keras", "tensorflow", "jax", "rich", "jinja2", "sklearn", "pandas", "scipy", "h5py")
BARE = "import runpy; runpy.run_path('conftest.py'); "


@pytest.mark.parametrize(
    "code",
    [
        "import autotrainer",
        "import autotrainer.cli; autotrainer.cli.main(['rules'])",
        "from autotrainer import registry; registry.rules(); registry.repairs(); registry.backends()",
        "import autotrainer; str(autotrainer.Report()); autotrainer.Report().to_json()",
    ],
)
def test_no_framework_is_imported(code: str) -> None:
    check = f"{BARE}{code}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
