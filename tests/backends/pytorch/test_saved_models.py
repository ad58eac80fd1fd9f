"""Models and pasted code of version 0.1, whose modules have moved since, load and compute the same."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

SAVED = Path(__file__).parent / "saved"
NAMES = sorted(path.stem for path in SAVED.glob("*.pt"))


@pytest.mark.parametrize("name", NAMES)
def test_saved_model_computes_the_same(name: str) -> None:
    model = torch.load(SAVED / f"{name}.pt", weights_only=False)["model"].eval()
    with np.load(SAVED / "expected.npz") as expected, torch.no_grad():
        outputs = model(torch.from_numpy(expected[f"{name}_x"]))
        np.testing.assert_allclose(outputs.numpy(), expected[f"{name}_out"], rtol=1e-5, atol=1e-6)


def test_there_is_a_model_of_each_kind() -> None:
    assert {"attention", "labels", "noise", "norm", "output", "rerouted", "residual", "scale_inputs"} <= set(NAMES)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("update_clipping", "clip_updates"),
        ("modules", "Residual"),
        ("rerouting", "Rerouted"),
        ("cosine_attention", "CosineAttention"),
    ],
)
def test_old_import_paths_give_the_same_objects(module: str, name: str) -> None:
    old = getattr(importlib.import_module(f"autotrainer.backends.pytorch.{module}"), name)
    assert old is getattr(importlib.import_module(old.__module__), name)
    assert old.__module__.startswith("autotrainer.backends.pytorch.layers.")
