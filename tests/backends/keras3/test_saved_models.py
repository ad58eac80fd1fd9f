"""Models and pasted code of version 0.1 still work, although modules have moved."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import autotrainer.backends.keras3.layers  # noqa: F401 - registers what saved models name

SAVED = Path(__file__).parent / "saved"
NAMES = sorted(path.stem for path in SAVED.glob("*.keras"))


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_computes_the_same_outputs(name: str) -> None:
    model = keras.models.load_model(SAVED / f"{name}.keras")
    with np.load(SAVED / "expected.npz") as expected:
        outputs = keras.ops.convert_to_numpy(model(expected[f"{name}_x"]))
        np.testing.assert_allclose(outputs, expected[f"{name}_out"], rtol=1e-5, atol=1e-6)


def test_saved_models_load_in_a_process_that_has_not_imported_the_backend(run_python: Callable[..., Any]) -> None:
    code = f"""
import keras
import autotrainer.backends.keras3.layers
for name in {NAMES!r}:
    keras.models.load_model({str(SAVED)!r} + "/" + name + ".keras")
print("loaded")
"""
    done = run_python(code)
    assert done.stdout.strip() == "loaded", done.stderr


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("guards", "clip_updates"),
        ("inserted", "Residual"),
        ("inserted", "CosineAttention"),
        ("answers", "LabelColumns"),
        ("losses", "SignedLogistic"),
        ("settings", "ScaledSchedule"),
        ("converted", "ConvertedLoss"),
    ],
)
def test_old_paths_name_the_same_objects(module: str, name: str) -> None:
    old = getattr(importlib.import_module(f"autotrainer.backends.keras3.{module}"), name)
    assert old is getattr(importlib.import_module(old.__module__), name)
    assert old.__module__ != f"autotrainer.backends.keras3.{module}"
