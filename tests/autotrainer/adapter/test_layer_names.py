"""A model that was built again has other automatic names and is the same; other layers are not."""

from __future__ import annotations

from typing import Any

import pytest

from autotrainer.adapter.layer_names import match_renumbered, rename_finding, rename_layers
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.signals import LayerInfo


def layers(*names: str, **options: Any) -> list[LayerInfo]:
    return [LayerInfo(name, "dense", "relu", 8, 72, inputs=8, **options) for name in names]


@pytest.mark.parametrize(
    ("before", "now", "matched"),
    [
        (layers("dense", "dense_1"), layers("dense_2", "dense_3"), True),
        (layers("model_1/dense", "head"), layers("model_4/dense_9", "head"), True),
        (layers("dense", "dense_1"), layers("dense_1", "conv2d"), False),
        (layers("dense"), layers("dense_1", "dense_2"), False),
        (layers("first"), layers("second"), False),
        (layers("0", "2"), layers("0", "3"), False),
        (layers("dense"), [LayerInfo("dense_1", "dense", "relu", 16, 144, inputs=8)], False),
        (layers("dense"), [LayerInfo("dense_1", "conv", "relu", 8, 72, inputs=8)], False),
        ([], [], True),
    ],
)
def test_matches(before: list[LayerInfo], now: list[LayerInfo], matched: bool) -> None:
    names = match_renumbered(before, now)
    assert (names is not None) == matched
    if names is not None:
        renamed = rename_layers(before, names)
        assert [layer.name for layer in renamed] == [layer.name for layer in now]


def test_names_that_are_exchanged_stay_apart() -> None:
    names = {"dense": "dense_1", "dense_1": "dense"}
    tied = [LayerInfo("dense", tied_to="dense_1"), LayerInfo("dense_1")]
    assert [(layer.name, layer.tied_to) for layer in rename_layers(tied, names)] == [
        ("dense_1", "dense"),
        ("dense", ""),
    ]
    message = "Layer dense_1 fades, dense less; dense_10 and condense_1 do not."
    finding = Finding("vanishing_gradient", "AT101", Severity.ERROR, 0.9, message, ("dense_1", "dense"))
    renamed = rename_finding(finding, names)
    assert renamed.layers == ("dense", "dense_1")
    assert renamed.message == "Layer dense fades, dense_1 less; dense_10 and condense_1 do not."
