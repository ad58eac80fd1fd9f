from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.sibling_outlier import SiblingOutlier

ROLES = {
    "attn.q_proj": (16, 16),
    "attn.k_proj": (16, 16),
    "attn.v_proj": (16, 16),
    "attn.c_proj": (16, 16),
    "mlp.c_fc": (64, 16),
    "mlp.c_proj": (16, 64),
}
USUAL: dict[str, Any] = {
    "weight_rms": 0.1,
    "weight_grad_rms": 0.3,
    "bias_rms": 0.01,
    "activation_spread": 0.7,
    "update_ratio": 1e-3,
}
POOR: dict[str, Any] = {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.6}}
FAIR: dict[str, Any] = {"losses": lambda t: 0.5, "scalars": {"accuracy": 0.8}}


def network(blocks: int = 4) -> tuple[LayerInfo, ...]:
    inner = [
        LayerInfo(f"h.{i}.{role}", "dense", "linear", units, units * inputs, inputs=inputs)
        for i in range(blocks)
        for role, (units, inputs) in ROLES.items()
    ]
    return (*inner, LayerInfo("head", "dense", "linear", 1, 17, hidden=False))


def with_values(blocks: int = 4, **changed: dict[str, Any]) -> dict[str, Any]:
    """Return a case: ``column={layer: value}`` changes the usual value, which drifts by the step."""
    layers = network(blocks)
    names = [layer.name for layer in layers]
    table: dict[str, Any] = {"dead_units": np.nan}
    for column, usual in USUAL.items():

        def at(t: int, column: str = column, usual: float = usual) -> list[float]:
            drift = 1 + 1e-4 * t
            special = changed.get(column, {})
            return [special[n](t) if callable(special.get(n)) else special.get(n, usual) * drift for n in names]

        table[column] = at
    return {"layers": layers, "table": table}


KEY = "h.2.attn.k_proj"


def grown(rate: float) -> Callable[[int], float]:
    return lambda t: rate * t


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(with_values(), None, id="all alike"),
        pytest.param(with_values(weight_rms={KEY: 1e-4}), "warning", id="a thousandth of its siblings"),
        pytest.param(with_values(weight_rms={KEY: 1e-4}) | POOR, "error", id="the same, and poor"),
        pytest.param(
            with_values(weight_rms={KEY: 1e-4}) | POOR | {"planned_epochs": None}, "warning", id="no schedule"
        ),
        pytest.param(with_values(weight_rms={KEY: 0.3}) | POOR, None, id="three times as large"),
        pytest.param(
            with_values(weight_rms={KEY: lambda t: 1e-4 if t < 100 else 0.1 + 1e-5 * t}) | POOR,
            None,
            id="a start that passes",
        ),
        pytest.param(with_values(weight_rms={KEY: 0.0}), "warning", id="zero to the end"),
        pytest.param(with_values(weight_rms={KEY: 0.0}) | POOR, "error", id="zero to the end, and poor"),
        pytest.param(with_values(weight_grad_rms={KEY: 0.0}), "warning", id="never a gradient"),
        pytest.param(with_values(weight_grad_rms={KEY: lambda t: 0.3 * (t == 7)}), None, id="once a gradient"),
        pytest.param(
            with_values(weight_rms={KEY: lambda t: 0.1}, update_ratio={KEY: 0.0}), "warning", id="the same to the bit"
        ),
        pytest.param(
            with_values(weight_rms={KEY: lambda t: 0.1}, update_ratio={KEY: 0.0}, weight_grad_rms={KEY: 1e-9}) | POOR,
            None,
            id="steps that are rounded away",
        ),
        pytest.param(with_values(weight_rms={KEY: lambda t: 0.1}), None, id="of constant size, but moving"),
        pytest.param(with_values(weight_rms={KEY: 0.012}) | FAIR, "warning", id="a tenth, and fair"),
        pytest.param(with_values(weight_rms={KEY: 0.012}) | POOR, "error", id="a tenth, and poor"),
        pytest.param(
            with_values(weight_rms={f"h.{i}.mlp.c_proj": grown(8e-4 if i == 2 else 1e-4) for i in range(4)}),
            None,
            id="all grow from zero, at other rates",
        ),
        pytest.param(
            with_values(weight_grad_rms={f"h.2.{role}": 0.0 for role in ROLES}) | FAIR,
            "warning",
            id="a whole block without gradient",
        ),
        pytest.param(with_values(activation_spread={KEY: 25.0}), "warning", id="outputs 35 times as large"),
        pytest.param(with_values(activation_spread={"h.0.attn.k_proj": 15.0}), None, id="the first block is special"),
        pytest.param(with_values(2, weight_rms={KEY.replace("2", "1"): 1e-3}), "warning", id="of two blocks"),
        pytest.param(with_values(2, weight_rms={f"h.{i}.attn.k_proj": 0.01 for i in (0, 1)}), None, id="T5-like"),
        pytest.param(with_values(2, weight_rms={f"h.{i}.attn.k_proj": 1e-3 for i in (0, 1)}), "warning", id="all"),
        pytest.param(with_values(weight_rms={f"h.{i}.attn.k_proj": 1.0 for i in range(4)}), "warning", id="all large"),
        pytest.param(with_values(2, weight_rms={KEY.replace("2", "1"): 0.04}), None, id="of two blocks, unlike"),
        pytest.param(with_values(bias_rms={"h.1.mlp.c_fc": 9.0}), "warning", id="a bias that hides the rest"),
        pytest.param(with_values(bias_rms={"h.1.mlp.c_fc": 0.9}), None, id="a large bias"),
        pytest.param(
            with_values(weight_grad_rms={f"h.{i}.attn.k_proj": 1e-4 for i in range(4)}), None, id="small by role"
        ),
        pytest.param(
            with_values(weight_grad_rms={f"h.2.{role}": 1e-4 for role in ROLES}),
            None,
            id="the whole block has small ones",
        ),
        pytest.param(with_values(weight_rms={KEY: 1e-4}) | {"steps": 4}, None, id="too few samples"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = SiblingOutlier().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_names_the_component_and_its_numbers(build: Callable[..., Any]) -> None:
    finding = SiblingOutlier().check(*build(**with_values(weight_rms={KEY: 1e-4})))
    assert finding is not None
    assert finding.layers == (KEY,)
    assert finding.message.startswith(
        "The key projection of block 2 is apart from its siblings: its weights are 0.0001"
    )
    assert finding.evidence["ratio"] == pytest.approx(1e-3, rel=0.2)


def test_parts_of_a_joint_matrix_are_compared_one_by_one(build: Callable[..., Any]) -> None:
    layers = tuple(LayerInfo(f"h.{i}.attn.c_attn", "dense", "linear", 48, 768, inputs=16) for i in range(4))
    table = {f"{part}_rms": lambda t: 0.1 + 1e-5 * t for part in ("query", "value")}
    table |= {f"{part}_grad_rms": 0.01 for part in ("query", "key", "value")}
    table |= {"key_rms": lambda t: [0.1, 0.1, 2e-4, 0.1]}
    finding = SiblingOutlier().check(*build(layers=layers, table=table | {"dead_units": np.nan}))
    assert finding is not None
    assert finding.layers == ("h.2.attn.c_attn",)
    assert "key projection of block 2" in finding.message


def test_a_single_frozen_layer_is_reported_but_not_a_frozen_block(build: Callable[..., Any]) -> None:
    def case(*frozen: str) -> dict[str, Any]:
        layers = [replace(layer, frozen=layer.name in frozen) for layer in network()]
        nothing = dict.fromkeys(frozen, np.nan)
        return with_values(weight_rms=nothing, weight_grad_rms=nothing, update_ratio=nothing) | {
            "layers": tuple(layers)
        }

    one = SiblingOutlier().check(*build(**case(KEY)))
    assert one is not None
    assert "frozen" in one.message
    assert SiblingOutlier().check(*build(**case(*(f"h.0.{role}" for role in ROLES)))) is None


def test_threshold_is_monotone(build: Callable[..., Any]) -> None:
    run = build(**with_values(weight_rms={KEY: 0.008}))
    reported = [SiblingOutlier(weight=factor).check(*run) is not None for factor in (3, 10, 30)]
    assert reported == [True, True, False]


def adapted(origin: str = "trained", start: float = 0.0) -> dict[str, Any]:
    """Return a case of low-rank adapters beside frozen matrices."""
    layers = []
    for name, (units, inputs) in ((f"h.{i}.{role}", size) for i in range(3) for role, size in ROLES.items()):
        base = LayerInfo(f"{name}.base_layer", "dense", "linear", units, inputs=inputs, frozen=True, origin=origin)
        down = LayerInfo(f"{name}.lora_A.default", "dense", "linear", 2, 2 * inputs, inputs=inputs)
        layers += [base, down, LayerInfo(f"{name}.lora_B.default", "dense", "linear", units, 2 * units, inputs=2)]

    def sizes(t: int) -> list[float]:
        drift = {"base_layer": 0.05, "lora_A": 0.07 + 1e-5 * t, "lora_B": start + 1e-6 * t}
        return [next(size for part, size in drift.items() if part in layer.name) for layer in layers]

    gradients = [np.nan if layer.frozen else 0.1 for layer in layers]
    table = {"dead_units": np.nan, "weight_rms": sizes, "weight_grad_rms": gradients}
    return {"layers": tuple(layers), "table": table}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(adapted(), None, id="adapters of a trained network"),
        pytest.param(adapted(start=1e-3), None, id="small adapters of an earlier run"),
        pytest.param(adapted("drawn"), None, id="adapters of a network that was trained briefly"),
    ],
)
def test_fine_tuning_with_adapters(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = SiblingOutlier().check(*build(**case | POOR))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(("origin", "expected"), [("trained", False), ("drawn", True)])
def test_massive_activations_are_usual_in_trained_networks(
    build: Callable[..., Any], origin: str, expected: bool
) -> None:
    case = with_values(activation_spread={"h.1.mlp.c_proj": 100.0})
    case["layers"] = tuple(replace(layer, origin=origin) for layer in case["layers"])
    assert (SiblingOutlier().check(*build(**case)) is not None) is expected


def test_extreme_sizes(build: Callable[..., Any]) -> None:
    values = {f"h.{i}.attn.k_proj": 1e-300 for i in range(4)} | {f"h.{i}.mlp.c_fc": 1e300 for i in range(4)}
    finding = SiblingOutlier().check(*build(**with_values(weight_rms=values)))
    assert finding is not None
    assert "inf" not in finding.message


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        pytest.param(("trained", "trained", "trained"), False, id="trained before"),
        pytest.param(("trained", "drawn", "drawn"), False, id="trained before, and hardly changed"),
        pytest.param(("drawn", "drawn", "drawn"), True, id="drawn anew"),
    ],
)
def test_a_role_that_is_frozen_in_all_blocks(
    build: Callable[..., Any], origins: tuple[str, ...], expected: bool
) -> None:
    keys = {f"h.{i}.attn.k_proj": origin for i, origin in enumerate(origins)}
    case = with_values(3, weight_grad_rms=dict.fromkeys(keys, np.nan), update_ratio=dict.fromkeys(keys, np.nan))
    case["layers"] = tuple(
        replace(layer, frozen=layer.name in keys, origin=keys.get(layer.name, "trained")) for layer in case["layers"]
    )
    assert (SiblingOutlier().check(*build(**case | POOR)) is not None) is expected


def changed_layers(case: dict[str, Any], **by_name: dict[str, Any]) -> dict[str, Any]:
    """Return a case with other properties of the layers whose names end so (``__`` for a dot)."""

    def change(layer: LayerInfo) -> LayerInfo:
        return next(
            (replace(layer, **new) for name, new in by_name.items() if layer.name.endswith(name.replace("__", "."))),
            layer,
        )

    return case | {"layers": tuple(change(layer) for layer in case["layers"])}


@pytest.mark.parametrize(("origin", "expected"), [("trained", "error"), ("drawn", None)])
def test_small_initial_weights_grow_but_count_in_trained_networks(
    build: Callable[..., Any], origin: str, expected: str | None
) -> None:
    keys = {f"h.{i}.attn.k_proj": (lambda t: 1e-4 + 1e-4 * t) for i in range(2)}
    case = changed_layers(with_values(2, weight_rms=keys), attn__q_proj={"origin": origin})
    finding = SiblingOutlier().check(*build(**case | POOR))
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        pytest.param({"q_proj": 0.5, "k_proj": 0.5, "v_proj": 0.485}, True, id="half of the heads"),
        pytest.param({"q_proj": 0.5}, False, id="one matrix"),
        pytest.param({"q_proj": 0.5, "k_proj": 0.25}, False, id="unequal shares"),
        pytest.param({"q_proj": 0.5, "k_proj": 0.5, "c_fc": 0.5}, False, id="pruned everywhere"),
        pytest.param(dict.fromkeys(("q_proj", "k_proj"), lambda t: 0.3 + 0.001 * t), False, id="underflow"),
    ],
)
def test_heads_that_are_cut_off(build: Callable[..., Any], shares: dict[str, Any], expected: bool) -> None:
    case = with_values(2)
    names = [layer.name.rsplit(".", 1)[-1] if layer.name.startswith("h.1.") else "" for layer in case["layers"]]

    def zeros(t: int) -> list[float]:
        values = [shares.get(name, 0.0) for name in names]
        return [value(t) if callable(value) else value for value in values]

    finding = SiblingOutlier().check(*build(**case | {"table": case["table"] | {"grad_zero_fraction": zeros}}))
    assert (finding is not None) is expected
    assert finding is None or "heads are cut off" in finding.message


@pytest.mark.parametrize(("activation", "expected"), [("linear", True), ("gelu", False), ("relu", False), (None, True)])
def test_a_block_without_activation(build: Callable[..., Any], activation: str | None, expected: bool) -> None:
    case = changed_layers(with_values(), h__2__mlp__c_fc={"activation": activation}, mlp__c_fc={"activation": "gelu"})
    finding = SiblingOutlier().check(*build(**case))
    assert (finding is not None) is expected


@pytest.mark.parametrize(("ratio", "name", "expected"), [(10, "wpe", True), (5, "wpe", False), (10, "types", False)])
def test_positions_that_drown_tokens(build: Callable[..., Any], ratio: float, name: str, expected: bool) -> None:
    layers = tuple(LayerInfo(each, "embedding", None, 16, 800) for each in ("wte", name))
    table = {"weight_rms": lambda t: [0.1 + 1e-4 * t, ratio * 0.1], "dead_units": np.nan}
    assert (SiblingOutlier().check(*build(layers=layers, table=table)) is not None) is expected
    fixed = (layers[0], replace(layers[1], parameters=0, frozen=True))  # sines, and tokens that are scaled up
    assert SiblingOutlier().check(*build(layers=fixed, table=table)) is None


@pytest.mark.parametrize(("width", "expected"), [(16, "error"), (256, "warning")])
def test_tokens_may_be_multiplied_by_the_root_of_their_width(
    build: Callable[..., Any], width: int, expected: str
) -> None:
    layers = tuple(LayerInfo(name, "embedding", None, width, 50 * width) for name in ("wte", "wpe"))
    table = {"weight_rms": lambda t: [0.1 + 1e-4 * t, 1.2], "dead_units": np.nan}
    finding = SiblingOutlier().check(*build(layers=layers, table=table, **POOR))
    assert finding is not None
    assert finding.severity == expected
