from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.abnormal_normalization import AbnormalNormalization

LAYERS = (
    *(LayerInfo(f"h.{i}.ln_{j}", "norm", "linear", 16, 32) for i in range(3) for j in (1, 2)),
    LayerInfo("ln_f", "norm", "linear", 16, 32),
    LayerInfo("head", "dense", "linear", 1, 17, hidden=False),
)
USUAL = {"normalized_rms": 1.0, "normalized_peak": 1.0, "scale_rms": 0.9, "bias_rms": 0.05}
POOR: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.6}}


def norms(row: int = 2, **changed: Any) -> dict[str, Any]:
    table: dict[str, Any] = {"dead_units": np.nan}
    for column, usual in USUAL.items():

        def at(t: int, column: str = column, usual: float = usual) -> list[float]:
            values = [usual] * 7 + [np.nan]
            if column in changed:
                values[row] = changed[column](t) if callable(changed[column]) else changed[column]
            return values

        table[column] = at
    return {"layers": LAYERS, "table": table}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(norms(), None, id="all fit"),
        pytest.param(norms(normalized_rms=0.1, normalized_peak=0.3), "warning", id="epsilon too large"),
        pytest.param(norms(normalized_rms=0.1, normalized_peak=0.3) | POOR, "error", id="epsilon too large, and poor"),
        pytest.param(norms(normalized_rms=0.7, normalized_peak=1.0), None, id="epsilon of the size of the variance"),
        pytest.param(norms(normalized_rms=1.05, normalized_peak=1.6), "warning", id="wrong axis"),
        pytest.param(norms(normalized_rms=10.0, normalized_peak=10.0), "warning", id="changed afterwards"),
        pytest.param(norms(normalized_rms=2.0, normalized_peak=np.nan), None, id="running statistics, other batch"),
        pytest.param(norms(normalized_rms=9.0, normalized_peak=np.nan), "warning", id="running statistics far off"),
        pytest.param(norms(normalized_rms=lambda t: 9.0 if t < 100 else 1.0), None, id="passes"),
        pytest.param(norms(scale_rms=6.0), "warning", id="scale above its siblings'"),
        pytest.param(norms(scale_rms=0.1), "warning", id="scale below its siblings'"),
        pytest.param(norms(scale_rms=2.0), None, id="scale twice its siblings'"),
        pytest.param(norms(6, scale_rms=9.0), None, id="scale of the last one"),
        pytest.param(norms(scale_rms=lambda t: 0.9 * np.exp(-t / 200)), None, id="scale learned to be small"),
        pytest.param(norms(bias_rms=lambda t: 0.05 + t / 300), None, id="bias learned to be large"),
        pytest.param(norms(bias_rms=2.0), "warning", id="bias above its siblings'"),
        pytest.param(norms(bias_rms=0.3), None, id="bias above its siblings' that hardly matters"),
        pytest.param(norms(scale_rms=0.0), "warning", id="scale stays zero"),
        pytest.param(norms(normalized_rms=np.nan, normalized_peak=np.nan), None, id="not measured"),
        pytest.param(norms(normalized_peak=2.0) | {"steps": 3}, None, id="too few samples"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = AbnormalNormalization().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_message_names_the_component(build: Callable[..., Any]) -> None:
    finding = AbnormalNormalization().check(*build(**norms(normalized_rms=1.05, normalized_peak=1.6)))
    assert finding is not None
    assert finding.layers == ("h.1.ln_1",)
    assert finding.message.startswith("The normalization ln_1 of block 1 does not normalize")


def test_scales_that_grow_with_depth_are_no_outliers(build: Callable[..., Any]) -> None:
    table = {"scale_rms": [0.02, 0.05, 0.12, 0.3, 0.6, 0.9, 1.5, np.nan], "dead_units": np.nan}
    assert AbnormalNormalization().check(*build(layers=LAYERS, table=table)) is None


def test_both_scales_of_a_block_may_be_wrong(build: Callable[..., Any]) -> None:
    table = {"scale_rms": [1.0, 1.0, 6.0, 6.5, 1.1, 1.0, 1.0, np.nan], "dead_units": np.nan}
    finding = AbnormalNormalization().check(*build(layers=LAYERS, table=table))
    assert finding is not None
    assert finding.layers == (LAYERS[2].name, LAYERS[3].name)


@pytest.mark.parametrize(("origin", "expected"), [("trained", False), ("drawn", True)])
def test_all_scales_of_the_first_block_of_a_trained_network_may_be_small(
    build: Callable[..., Any], origin: str, expected: bool
) -> None:
    layers = tuple(replace(layer, origin=origin) for layer in LAYERS)
    table = {"scale_rms": [0.03, 0.04, 0.4, 0.3, 0.5, 0.4, 1.0, np.nan], "dead_units": np.nan}
    assert (AbnormalNormalization().check(*build(layers=layers, table=table)) is not None) is expected


def test_a_bias_of_zero_beside_others(build: Callable[..., Any]) -> None:
    table = {"scale_rms": [1.0] * 7 + [np.nan], "bias_rms": [0.3, 0.3, 0.3, 0.0, 0.3, 0.3, 0.3, np.nan]}
    with np.errstate(all="raise"):
        assert AbnormalNormalization().check(*build(layers=LAYERS, table=table | {"dead_units": np.nan})) is None


def test_a_last_block_of_which_only_the_attention_has_siblings(build: Callable[..., Any]) -> None:
    parts = ("norm", "attn.query", "attn.key", "mlp.up")
    layers = tuple(
        LayerInfo(f"h.{i}.{part}", "norm" if part == "norm" else "dense", "linear", width, 32, inputs=8)
        for i in range(3)
        for part in parts
        for width in [24 if i == 2 and part in ("norm", "mlp.up") else 16]
    )
    table = {"scale_rms": [1.0 if "norm" in layer.name else np.nan for layer in layers], "dead_units": np.nan}
    assert AbnormalNormalization().check(*build(layers=layers, table=table)) is None


@pytest.mark.parametrize("kind", ["attention", "dense"])
def test_a_block_without_normalization(build: Callable[..., Any], kind: str) -> None:
    parts = [(i, part) for i in range(3) for part in ("norm", "mixer", "up") if (i, part) != (1, "norm")]
    kinds = {"norm": "norm", "mixer": kind, "up": "dense"}
    layers = tuple(LayerInfo(f"h.{i}.{part}", kinds[part], "linear", 16, 32, inputs=8) for i, part in parts)
    table = {"scale_rms": [1.0 if "norm" in layer.name else np.nan for layer in layers], "dead_units": np.nan}
    finding = AbnormalNormalization().check(*build(layers=layers, table=table))
    assert (finding is not None) is (kind == "attention")
    assert finding is None or "block 1 has no normalization" in finding.message.lower()


@pytest.mark.parametrize(
    ("spread", "outcome", "expected"),
    [
        pytest.param(0.05, POOR, True, id="inputs of a sixth of the size, poor"),
        pytest.param(0.05, {}, False, id="the same, and learned"),
        pytest.param(0.25, POOR, False, id="inputs of size 1: normalized in a function"),
    ],
)
def test_no_block_with_normalization(
    build: Callable[..., Any], spread: float, outcome: dict[str, Any], expected: bool
) -> None:
    roles = ("attn.query", "attn.key", "attn.value", "mlp.up")
    layers = tuple(LayerInfo(f"h.{i}.{role}", "dense", "linear", 16, 32, inputs=9) for i in range(2) for role in roles)
    table = {"activation_spread": spread, "weight_rms": 0.1, "dead_units": np.nan}
    finding = AbnormalNormalization().check(*build(layers=layers, table=table, **outcome))
    assert (finding is not None) is expected
    assert finding is None or (finding.severity, "no block has" in finding.message.lower()) == ("warning", True)


@pytest.mark.parametrize(("kind", "expected"), [("attention", True), ("conv", False)])
def test_biases_that_hide_the_input_count_in_transformers(build: Callable[..., Any], kind: str, expected: bool) -> None:
    layers = (*LAYERS[:7], LayerInfo("mixer", kind, "linear", 16, 17))
    table = {"scale_rms": [0.5] * 7 + [np.nan], "bias_rms": [2.5] * 7 + [np.nan], "dead_units": np.nan}
    finding = AbnormalNormalization().check(*build(layers=layers, table=table))
    assert (finding is not None) is expected


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**norms(scale_rms=6.0))
    reported = [AbnormalNormalization(siblings=factor).check(*run) is not None for factor in (3, 5, 10)]
    assert reported == [True, True, False]


@pytest.mark.parametrize(("origin", "expected"), [("trained", False), ("drawn", True)])
def test_the_first_scale_of_a_trained_network_may_be_small(
    build: Callable[..., Any], origin: str, expected: bool
) -> None:
    case = norms(0, scale_rms=0.05)
    case["layers"] = tuple(replace(layer, origin=origin) for layer in LAYERS)
    assert (AbnormalNormalization().check(*build(**case)) is not None) is expected
