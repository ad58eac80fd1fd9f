from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.checkpoint_not_loaded import CheckpointNotLoaded

HALF_WAY: dict[str, Any] = {"losses": lambda t: 1.3, "scalars": {"accuracy": 0.5}}
STUCK: dict[str, Any] = {"losses": lambda t: 1.4 + 0.1 * (t == 0), "scalars": {"accuracy": 0.25}}


def network(*blocks: str, output: str = "drawn", norm: str = "trained", **head: Any) -> dict[str, Any]:
    """Return a case with these origins of blocks, of the output layer and of the last norm."""
    layers = [LayerInfo("tokens", "embedding", None, 16, 800, origin="trained", inputs=50)]
    for number, origin in enumerate(blocks):
        layers += [
            LayerInfo(f"blocks.{number}.norm", "norm", None, 16, 32, origin=origin),
            LayerInfo(f"blocks.{number}.up", "dense", "relu", 64, 1088, origin="drawn" if origin == "drawn" else ""),
        ]
    layers.append(LayerInfo("norm", "norm", None, 16, 32, origin=norm))
    layers.append(LayerInfo("head", "dense", "linear", 4, 68, hidden=False, origin=output))
    layers[-1] = replace(layers[-1], **head)
    return {
        "layers": tuple(layers),
        "targets": "index",
        "loss": "ce",
        "output_units": 4,
        "table": {"dead_units": np.nan},
    }


def with_positions(origin: str, *blocks: str) -> dict[str, Any]:
    """Return a case with learned positions of this origin."""
    case = network(*blocks)
    positions = LayerInfo("positions", "embedding", None, 16, 512, origin=origin, inputs=32)
    return case | {"layers": (positions, *case["layers"])}


def first(loss: float) -> dict[str, Any]:
    return {"losses": lambda t: loss if t == 0 else 0.1}


OLD, NEW = ("trained",) * 4, ("drawn",) * 4


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(network("trained", "drawn", "drawn", "trained"), "warning", id="two blocks are new"),
        pytest.param(network("trained", "trained", "drawn", "drawn"), "info", id="the last blocks are new"),
        pytest.param(
            network("trained", "trained", "drawn", "drawn") | HALF_WAY | {"losses": lambda t: 1.3},
            "warning",
            id="the last blocks are new, and poor",
        ),
        pytest.param(network("trained", "drawn"), None, id="one trained block and a new one like it"),
        pytest.param(network(*OLD), None, id="a new output layer"),
        pytest.param(network(*OLD, norm="drawn") | first(1.5), None, id="a new output layer with a norm"),
        pytest.param(network(*NEW, norm="drawn"), None, id="from scratch"),
        pytest.param(network(*OLD, output="trained") | first(1.5), "info", id="trained, and no better than chance"),
        pytest.param(network(*OLD, output="trained") | first(1.2), None, id="trained, and better than chance"),
        pytest.param(network(*OLD, output="drawn") | first(1.5), None, id="new output layer, no better than chance"),
        pytest.param(network(*OLD, tied_to="tokens", tie="kept") | first(1.5), "info", id="tied output layer"),
        pytest.param(network(*OLD, output="trained") | first(1.5) | STUCK, "error", id="trained, and of no use"),
        pytest.param(network(*OLD, output="trained") | HALF_WAY | first(1.5), "info", id="trained, and half way"),
        pytest.param(network(*OLD) | first(1.5) | STUCK, "warning", id="a new output layer, and nothing learned"),
        pytest.param(network(*NEW, norm="drawn") | first(1.5) | STUCK, None, id="from scratch, and nothing learned"),
        pytest.param(
            network(*OLD, units=50, inputs=16) | first(1.5) | STUCK, "warning", id="a new layer over the tokens"
        ),
        pytest.param(network(*OLD, units=50, inputs=16) | first(1.5), "info", id="the same, learned well"),
        pytest.param(
            network(*OLD, units=50, inputs=16) | first(1.2) | {"scalars": {"accuracy": 0.4}},
            None,
            id="the same, better than chance",
        ),
        pytest.param(network(*OLD, tied_to="tokens", tie="equal") | first(1.5), None, id="copied output layer"),
        pytest.param(network(*OLD, output="trained") | first(1.5) | {"loss": "mse"}, None, id="no cross-entropy"),
        pytest.param(network(*NEW, norm="drawn") | {"checkpoint": True}, "info", id="from a configuration"),
        pytest.param(
            network(*NEW, norm="drawn") | {"checkpoint": True} | HALF_WAY, "warning", id="from a configuration, poor"
        ),
        pytest.param(network(*OLD) | {"checkpoint": True} | HALF_WAY, None, id="from a checkpoint, poor"),
        pytest.param(with_positions("drawn", *OLD) | HALF_WAY, "warning", id="new positions, poor"),
        pytest.param(with_positions("drawn", *OLD), None, id="new positions, learned well"),
        pytest.param(with_positions("trained", *OLD) | HALF_WAY, None, id="trained positions, poor"),
        pytest.param(with_positions("drawn", *NEW) | HALF_WAY, None, id="positions from scratch, poor"),
        pytest.param({}, None, id="no norm"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = CheckpointNotLoaded().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_a_head_of_two_classes_has_the_shape_of_an_embedding_of_segments(build: Callable[..., Any]) -> None:
    case = network(*OLD, units=2, inputs=16) | {"output_units": 2} | first(1.5) | HALF_WAY
    segments = LayerInfo("token_types", "embedding", None, 16, 32, origin="trained", inputs=2)
    case["layers"] = (case["layers"][0], segments, *case["layers"][1:])
    assert CheckpointNotLoaded().check(*build(**case)) is None


def test_blocks_that_differ_are_not_compared(build: Callable[..., Any]) -> None:
    layers = (
        LayerInfo("0.norm", "norm", None, 16, 32, origin="trained"),
        LayerInfo("1.norm2", "norm", None, 16, 32, origin="drawn"),
    )
    assert CheckpointNotLoaded().check(*build(layers=layers, table={"dead_units": np.nan})) is None


def test_new_blocks_are_named(build: Callable[..., Any]) -> None:
    finding = CheckpointNotLoaded().check(*build(**network("trained", "drawn", "drawn", "trained")))
    assert finding is not None
    assert finding.message.startswith("2 of 4 blocks of blocks (1, 2) have weights that were never trained")
    assert finding.layers == ("blocks.1.norm", "blocks.1.up", "blocks.2.norm", "blocks.2.up")
