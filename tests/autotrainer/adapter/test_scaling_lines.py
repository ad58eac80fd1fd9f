"""Tests of the lines that scale inputs: they give what the edit gives, few columns and many."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autotrainer.adapter.patch_code import scaling_lines
from autotrainer.training.column_scaling import ColumnScaling


@pytest.mark.parametrize("library", ["np", "torch"])
@pytest.mark.parametrize(("width", "constant"), [(6, 2), (784, 0), (784, 100)])
def test_patch_scales_as_the_edit_does(library: str, width: int, constant: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 255, (300, width))
    values[:, :constant] = 7.0
    scaling = ColumnScaling()
    scaling.add(values)
    edit = scaling.fit()
    code = "\n".join(scaling_lines(edit, library))
    names: dict[str, Any] = {"np": np, "torch": torch}
    names["x_train"] = names["x"] = values.copy() if library == "np" else torch.tensor(values)
    exec(code, names)
    expected = (values - np.array(edit.mean)) / np.array(edit.std)
    expected[:, list(edit.dropped)] = 0
    assert np.allclose(np.asarray(names["x"]), expected, atol=1e-4)
    assert (len(code) < 400) or width < 100
