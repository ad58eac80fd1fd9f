from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.embedding_unused import EmbeddingUnused

LAYERS = (
    LayerInfo("tokens", "embedding", "linear", 16, 800),
    LayerInfo("block", "dense", "relu", 16, 1000),
    LayerInfo("out", "dense", "linear", 50, 816, hidden=False),
)
STUCK: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
HALF_WAY: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.7}}


def embedding(
    without: Any = 0.0, frequent: float = 50, never: float = 0, zero: float = 0, between: float = 0, **layer: Any
) -> dict[str, Any]:
    columns = {"lookups_without_gradient": without, "frequent_rows": frequent, "rows_without_gradient": never}
    columns |= {"rows_of_zero": zero, "padding_between": between}

    def at(value: Any) -> Any:
        return (lambda t: [value(t), np.nan, np.nan]) if callable(value) else [value, np.nan, np.nan]

    layers = (replace(LAYERS[0], **layer), *LAYERS[1:])
    return {"layers": layers, "table": {name: at(value) for name, value in columns.items()} | {"dead_units": np.nan}}


def tied(tie: str) -> dict[str, Any]:
    layers = (*LAYERS[:2], replace(LAYERS[2], tied_to="tokens", tie=tie))
    return {"layers": layers, "table": {"dead_units": np.nan}}


FROZEN = (replace(LAYERS[0], parameters=5000), LayerInfo("body", "dense", "relu", 16, 0, frozen=True), LAYERS[2])


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(embedding(1.0) | STUCK, "error", id="no gradient, and stuck"),
        pytest.param(embedding(1.0) | HALF_WAY, "error", id="no gradient, and half way at the end"),
        pytest.param(embedding(1.0), "warning", id="no gradient in a model that learns"),
        pytest.param(embedding(1.0) | {"steps": 4}, None, id="too few samples"),
        pytest.param(embedding(lambda t: float(t > 0)), None, id="a gradient in the first step"),
        pytest.param(embedding(1.0, name="order") | {"scalars": {"grad_norm": 0.0}}, None, id="none anywhere"),
        pytest.param(embedding(1.0, parameters=0, frozen=True), None, id="frozen"),
        pytest.param(embedding(1.0, unowned=800), None, id="not in the optimizer"),
        pytest.param(embedding(0.3, never=20) | HALF_WAY, "error", id="rows without gradient"),
        pytest.param(
            embedding(1.0, never=50) | STUCK | {"scalars": {"accuracy": 0.5, "grad_norm": 0.0}}, None, id="no row"
        ),
        pytest.param(
            embedding(0.3, never=20) | {"losses": lambda t: 0.7 - 2e-3 * t, "scalars": {"accuracy": 0.6}, "steps": 150},
            "warning",
            id="rows without gradient, and still learning",
        ),
        pytest.param(embedding(0.3, never=20), "info", id="rows without gradient in a model that learns"),
        pytest.param(embedding(0.1, never=4) | HALF_WAY, None, id="special tokens"),
        pytest.param(embedding(0.1, 500, never=20) | HALF_WAY, None, id="few of many rows"),
        pytest.param(
            embedding(0.3, never=20) | {"layers": FROZEN} | HALF_WAY, "info", id="new tokens of a fixed model"
        ),
        pytest.param(embedding(0.0, zero=30) | HALF_WAY, "error", id="rows of zero"),
        pytest.param(embedding(0.0, zero=8) | HALF_WAY, "warning", id="a few rows of zero"),
        pytest.param(
            embedding(np.nan, never=np.nan, zero=30, parameters=0, frozen=True) | HALF_WAY, "error", id="frozen zeros"
        ),
        pytest.param(embedding(0.0, between=0.9) | HALF_WAY, "warning", id="padding between tokens"),
        pytest.param(embedding(0.0, between=0.9), None, id="padding between tokens in a model that learns"),
        pytest.param(embedding(0.0, between=0.1) | HALF_WAY, None, id="rare padding between tokens"),
        pytest.param(tied("equal") | HALF_WAY, "warning", id="a copy"),
        pytest.param(tied("equal"), "info", id="a copy in a model that learns"),
        pytest.param(tied("declared"), "warning", id="tied by its configuration only"),
        pytest.param(tied("lost"), "warning", id="tied before"),
        pytest.param(tied("kept"), None, id="tied"),
        pytest.param({}, None, id="no embedding"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = EmbeddingUnused().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_embeddings_of_positions_belong_to_another_rule(build: Callable[..., Any]) -> None:
    case = embedding(1.0, never=50, name="wpe")
    case["table"]["position_grad_norm"] = [0.0, np.nan, np.nan]
    assert EmbeddingUnused().check(*build(**case)) is None


def test_messages_have_the_measured_numbers(build: Callable[..., Any]) -> None:
    rows = EmbeddingUnused().check(*build(**embedding(0.3, never=20), **HALF_WAY))
    copy = EmbeddingUnused().check(*build(**tied("equal")))
    assert rows is not None
    assert copy is not None
    assert "20 of the 50 rows of embedding tokens that occur often never get a gradient" in rows.message
    assert "The weights of out and of embedding tokens are separate parameters" in copy.message
    assert copy.layers == ("out", "tokens")
