"""Lines of the edits of the structure run as they stand, and their numbers are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.errors import ConfigError
from autotrainer.reporting.patches import lines, words

EDITS = [
    e.ResizeLayers(("0",), (16,), ("2",), (16,)),
    e.AddResidual(("2", "4")),
    e.ScaleOutputLayer(0.1),
    e.ScaleOutputLayer(0.1, ("6",)),
    e.ClipAttention(("blocks.0.attention",), 5.0),
]


def _run(edit: e.Edit, framework: str, **names: Any) -> dict[str, Any]:
    exec("\n".join(lines(edit, framework)), names)
    return names


@pytest.mark.parametrize("edit", EDITS, ids=str)
@pytest.mark.parametrize("framework", ["pytorch", "keras3"])
def test_layers_are_named_and_edits_come_back_from_json(edit: e.Edit, framework: str) -> None:
    text = "\n".join([words(edit), *lines(edit, framework)])
    assert all(name in text for name in getattr(edit, "layers", ()))
    assert e.edit_from_dict(edit.to_dict()) == edit


def test_the_output_layer_in_pytorch_and_keras() -> None:
    keras = pytest.importorskip("keras")
    edit = e.ScaleOutputLayer(0.25, ("6",))
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    before = model[6].weight.detach().clone()
    _run(edit, "pytorch", torch=torch, nn=nn, model=model)
    assert torch.equal(model[6].weight, 0.25 * before)
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="out")], name="head")
    outer = keras.Sequential([keras.Input((2,)), inner])
    kernel = inner.layers[-1].get_weights()[0]
    _run(e.ScaleOutputLayer(0.25, ("head/out",)), "keras3", keras=keras, np=np, model=outer)
    np.testing.assert_allclose(inner.layers[-1].get_weights()[0], 0.25 * kernel)


def test_a_way_past_a_layer_in_pytorch_and_keras() -> None:
    keras = pytest.importorskip("keras")
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    made = _run(EDITS[1], "pytorch", torch=torch, nn=nn)["Residual"](nn.Linear(4, 4), nn.ReLU())
    assert torch.equal(made(torch.tensor(x)), torch.tensor(x))
    made.gate.data.fill_(2.0)
    torch.testing.assert_close(made(torch.tensor(x)), torch.tensor(x) + 2 * made.layer(torch.tensor(x)).relu())
    gate = _run(EDITS[1], "keras3", keras=keras)["Gate"]()
    np.testing.assert_array_equal(gate(x), 0 * x)


def test_bounded_attention_in_pytorch_and_keras_is_that_of_the_edit() -> None:
    keras = pytest.importorskip("keras")
    q, k, v = torch.randn(3, 2, 5, 4).unsqueeze(2)
    attend = _run(EDITS[-1], "pytorch", torch=torch, nn=nn)["scaled_cosine_attention"]
    logits = 5 * nn.functional.cosine_similarity(q.unsqueeze(-2), k.unsqueeze(-3), dim=-1)
    torch.testing.assert_close(attend(q, k, v), logits.softmax(-1) @ v)
    from autotrainer.backends.keras3.layers.inserted import CosineAttention

    pasted = _run(EDITS[-1], "keras3", keras=keras)["CosineAttention"](2, 4)
    own = CosineAttention(2, 4, limit=5.0)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    pasted(x, x), own(x, x)
    own.set_weights(pasted.get_weights())
    np.testing.assert_allclose(pasted(x, x), own(x, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: e.ResizeLayers(("a",), ()), "one number for each layer"),
        (lambda: e.ResizeLayers(("a",), (0,)), "at least one unit"),
        (lambda: e.ResizeLayers(("a",), (8,), ("b",), (1.5,)), "at least one unit"),  # type: ignore[arg-type]
        (lambda: e.ScaleOutputLayer(1.0), r"in \(0, 1\)"),
        (lambda: e.ScaleOutputLayer(float("nan")), r"in \(0, 1\)"),
        (lambda: e.ClipAttention(("a",), 0.0), "above 0"),
        (lambda: e.ClipAttention(("a",), float("inf")), "above 0"),
    ],
)
def test_numbers_that_make_no_sense(build: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build()
