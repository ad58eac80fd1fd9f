"""Lines of PyTorch code for edits of the structure run as they stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autotrainer import edits as e
from autotrainer.backends.pytorch.patches.patch import patch

EDITS = [
    e.ResizeLayers(("0",), (16,), ("2",), (16,)),
    e.AddResidual(("2", "4")),
    e.ResizeOutputLayer(3),
    e.ResizeOutputLayer(3, ("6",), ("7",), (3,)),
    e.ScaleOutputLayer(0.1),
    e.ScaleOutputLayer(0.1, ("6",)),
    e.ClipAttention(("blocks.0.attention",), 5.0),
]


def _run(edit: e.Edit, **names: Any) -> dict[str, Any]:
    names |= {"torch": torch, "nn": nn}
    exec("\n".join(patch(edit)), names)
    return names


@pytest.mark.parametrize("edit", EDITS, ids=repr)
def test_layers_are_named(edit: e.Edit) -> None:
    text = "\n".join([str(edit), *patch(edit)])
    assert all(name in text for name in (*getattr(edit, "layers", ()), *getattr(edit, "followers", ())))


def test_output_layer() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(7)))
    before = model[6].weight.detach().clone()
    _run(e.ScaleOutputLayer(0.25, ("6",)), model=model)
    assert torch.equal(model[6].weight, 0.25 * before)


def test_residual_connection() -> None:
    x = torch.tensor(np.random.default_rng(0).normal(size=(3, 4)).astype("float32"))
    made = _run(EDITS[1])["Residual"](nn.Linear(4, 4), nn.ReLU())
    assert torch.equal(made(x), x)
    made.gate.data.fill_(2.0)
    torch.testing.assert_close(made(x), x + 2 * made.layer(x).relu())


def test_bounded_attention() -> None:
    q, k, v = torch.randn(3, 2, 5, 4).unsqueeze(2)
    attend = _run(EDITS[-1])["scaled_cosine_attention"]
    logits = 5 * nn.functional.cosine_similarity(q.unsqueeze(-2), k.unsqueeze(-3), dim=-1)
    torch.testing.assert_close(attend(q, k, v), logits.softmax(-1) @ v)
