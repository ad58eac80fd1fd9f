"""Lines of Keras code for edits of the structure run as they stand."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from autotrainer import edits as e
from autotrainer.backends.keras3.layers.inserted import CosineAttention
from autotrainer.backends.keras3.patches.patch import patch

EDITS = [
    e.ResizeLayers(("0",), (16,), ("2",), (16,)),
    e.AddResidual(("2", "4")),
    e.ResizeOutputLayer(3),
    e.ResizeOutputLayer(3, ("6",)),
    e.ScaleOutputLayer(0.1),
    e.ScaleOutputLayer(0.1, ("6",)),
    e.ClipAttention(("block/attention",), 5.0),
]


def _run(edit: e.Edit, **names: Any) -> dict[str, Any]:
    names |= {"keras": keras, "np": np}
    exec("\n".join(patch(edit)), names)
    return names


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_layers_are_named(edit: e.Edit) -> None:
    text = "\n".join([str(edit), *patch(edit)])
    assert all(name in text for name in getattr(edit, "layers", ()))


def test_output_layer() -> None:
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="out")], name="head")
    outer = keras.Sequential([keras.Input((2,)), inner])
    kernel = inner.layers[-1].get_weights()[0]
    _run(e.ScaleOutputLayer(0.25, ("head/out",)), model=outer)
    np.testing.assert_allclose(inner.layers[-1].get_weights()[0], 0.25 * kernel)


def test_residual_connection() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    gate = _run(EDITS[1])["Gate"]()
    np.testing.assert_array_equal(gate(x), 0 * x)


def test_bounded_attention_is_that_of_the_edit() -> None:
    pasted = _run(EDITS[-1])["CosineAttention"](2, 4)
    own = CosineAttention(2, 4, limit=5.0)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    pasted(x, x), own(x, x)
    own.set_weights(pasted.get_weights())
    np.testing.assert_allclose(pasted(x, x), own(x, x), rtol=1e-5, atol=1e-6)
