"""Watched trainings in processes of their own, without a standard error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[4]

TRAINING = """
import os, sys
import numpy as np
import keras
import autotrainer
keras.utils.set_random_seed(0)
x = np.random.randn(64, 8).astype("float32")
y = (x[:, 0] > 0).astype(int)
def built():
    model = keras.Sequential([keras.layers.Dense(16, activation="relu"), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(1e30), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
"""

END = """
class OwnError(Exception):
    pass
for ends in (True, False):
    model = built()
    try:
        with autotrainer.watch(model, log_dir=sys.argv[2]) as monitor:
            model.fit(x, y, epochs=4, verbose=0)
            if not ends:
                raise OwnError("mine")
    except OwnError as error:
        assert not ends and error.__context__ is None and error.__cause__ is None
    else:
        assert ends
    assert any(f.severity == "error" for f in monitor.findings)
open(sys.argv[1], "w").write("saved")
"""
REDIRECTIONS = {
    "full": "2>/dev/full",
    "closed": "2>&-",
    "a broken pipe": "2> >(true)",
    "closed with stdout": ">&- 2>&-",
    "full with stdout": ">/dev/full 2>/dev/full",
}


def run(code: str, folder: Path, redirection: str) -> tuple[int, str, str]:
    """Run a script, and return its exit status, output and errors."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    env |= {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    (folder / "script.py").write_text(code)
    command = f'"$0" {folder}/script.py {folder}/saved {folder}/log {redirection}'
    ran = subprocess.run(
        ["bash", "-c", command, sys.executable], env=env, capture_output=True, text=True, timeout=300, check=False
    )
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stderr", REDIRECTIONS)
def test_trainings_end_as_if_they_were_not_watched(stderr: str, tmp_path: Path, record_property: Any) -> None:
    record_property("attacks", 2)
    assert run(TRAINING + END, tmp_path, REDIRECTIONS[stderr]) == (0, "", "")
    assert (tmp_path / "saved").read_text() == "saved"
