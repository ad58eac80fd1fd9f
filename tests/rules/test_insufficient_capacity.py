from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import OptimizerInfo
from autotrainer.rules.insufficient_capacity import InsufficientCapacity


def dense(*units: int, inputs: int = 8, bias: bool = True, activation: str = "relu") -> tuple[LayerInfo, ...]:
    """Return dense layers of these units; the last makes the output."""
    layers, before = [], inputs
    for i, n in enumerate(units):
        last = i == len(units) - 1
        size = (before + bias) * n
        layers.append(LayerInfo(f"fc{i}", "dense", "linear" if last else activation, n, size, hidden=not last))
        before = n
    return tuple(layers)


LOW: dict[str, Any] = {"losses": lambda t: 0.6, "scalars": {"accuracy": 0.7}, "table": {"dead_units": np.nan}}
FAIR: dict[str, Any] = LOW | {"scalars": {"accuracy": 0.88}}
GOOD: dict[str, Any] = LOW | {"scalars": {"accuracy": 0.97}}
DEAD_SCALARS = {"accuracy": 0.5, "grad_norm": 0.0}
STUCK: dict[str, Any] = LOW | {"losses": lambda t: 0.7, "scalars": {"accuracy": 0.5}}
WIDE = {"layers": dense(16, 16, 1)}
NARROW = {"layers": dense(1, 16, 1)}
REAL: dict[str, Any] = {
    "targets": "real",
    "loss": "mse",
    "losses": lambda t: 0.6,
    "table": {"dead_units": np.nan},
}
CODE: dict[str, Any] = {"layers": dense(8, 1, 8, 8), "output_units": 8, "scalars": {"squared_error": 0.6}}
DECAYED: dict[str, Any] = WIDE | {
    "optimizer": OptimizerInfo("adamw", 0.01, weight_decay=10.0),
    "table": {"weight_norm": lambda t: 0.2 + 2 * np.exp(-t / 20), "dead_units": np.nan},
}
PENALIZED: dict[str, Any] = WIDE | {
    "penalized": True,
    "table": DECAYED["table"],
    "scalars": {"accuracy": 0.7, "data_loss": 0.2},
}
VANISHED: dict[str, Any] = WIDE | {
    "table": {"weight_norm": lambda t: 1e-4 + 2 * np.exp(-t / 20), "dead_units": np.nan},
}
LINEAR = {"layers": dense(16, 1, activation="linear")}
FEW = {"layers": dense(4, 2, 1)}
CURVED = {"linear_score": 0.5, "kernel_score": 0.9}
SIMPLE = {"trivial_score": 0.5, "held_out_rows": 300.0, "simple_gap": 0.2, "simple_gap_error": 0.03}
CLASSES: dict[str, Any] = {"targets": "index", "loss": "ce", "output_units": 4}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(LOW | NARROW, "error", id="one unit, poor"),
        pytest.param(LOW | {"layers": dense(1, 16, 1, bias=False)}, "error", id="one unit, no bias"),
        pytest.param(LOW | NARROW | {"planned_epochs": None}, "warning", id="one unit, no schedule"),
        pytest.param(LOW | NARROW | {"steps": 200}, None, id="one unit, young"),
        pytest.param(
            LOW | NARROW | {"losses": lambda t: 1 - t / 800, "steps": 400}, None, id="one unit, still learning"
        ),
        pytest.param(FAIR | NARROW, "error", id="one unit before a hidden layer, fair"),
        pytest.param(FAIR | {"layers": dense(1, 1)}, "warning", id="one unit before the output, fair"),
        pytest.param(STUCK | NARROW | {"steps": 120}, "error", id="one unit, nothing learned: early"),
        pytest.param(
            STUCK
            | NARROW
            | {"table": {"grad_norm": 0.0, "dead_units": [1.0, 0.1, np.nan]}, "scalars": DEAD_SCALARS, "steps": 120},
            "error",
            id="the one unit is dead",
        ),
        pytest.param(GOOD | NARROW, None, id="one unit is enough"),
        pytest.param(LOW | WIDE, None, id="wide and poor: noisy labels"),
        pytest.param(LOW | {"layers": dense(16, 1, 1)}, None, id="one number suffices for the output"),
        pytest.param(LOW | CLASSES | {"layers": dense(16, 2, 4)}, "error", id="two units for four classes"),
        pytest.param(LOW | CLASSES | {"layers": dense(16, 8, 4)}, None, id="eight units for four classes"),
        pytest.param(
            LOW | {"layers": (LayerInfo("score", "dense", "tanh", 1, 17), *dense(16, 1))},
            None,
            id="a unit in a side branch",
        ),
        pytest.param(
            REAL | CODE,
            None,
            id="the code of an autoencoder",
        ),
        pytest.param(
            REAL | CODE | {"asked": {"linear_score": 0.4, "trivial_score": 0.0, "held_out_rows": 250.0}},
            "error",
            id="a code of so many principal components holds little",
        ),
        pytest.param(
            REAL | CODE | {"asked": {"linear_score": 0.9, "trivial_score": 0.0, "held_out_rows": 250.0}},
            None,
            id="a code of so many principal components suffices",
        ),
        pytest.param(
            REAL | {"layers": dense(1, 8, 8), "output_units": 8, "scalars": {"squared_error": 1.0}},
            "error",
            id="a code that learns nothing",
        ),
        pytest.param(
            LOW | NARROW | {"table": {"grad_norm": 0.0}, "scalars": {"accuracy": 0.7, "grad_norm": 0.0}},
            None,
            id="no gradient: not for size",
        ),
        pytest.param(LOW | WIDE | {"dropout": 0.9}, "warning", id="heavy dropout, no validation"),
        pytest.param(
            LOW | WIDE | {"dropout": 0.9, "epochs": {"val_accuracy": lambda e: 0.7}}, "error", id="heavy dropout, poor"
        ),
        pytest.param(
            LOW | WIDE | {"dropout": 0.9, "epochs": {"val_accuracy": lambda e: 0.95}},
            None,
            id="heavy dropout, good on validation data",
        ),
        pytest.param(LOW | WIDE | {"dropout": 0.5}, None, id="usual dropout"),
        pytest.param(
            STUCK | WIDE | {"dropout": 0.9, "steps": 120, "epochs": {"val_accuracy": lambda e: 0.5}},
            "error",
            id="heavy dropout, nothing learned by any measure: early",
        ),
        pytest.param(STUCK | WIDE | {"dropout": 0.9, "steps": 120}, None, id="heavy dropout, no validation, young"),
        pytest.param(LOW | PENALIZED, "error", id="weights that penalties have shrunk"),
        pytest.param(
            STUCK | PENALIZED | {"losses": lambda t: 9 * 0.99**t, "scalars": {"accuracy": 0.5, "data_loss": 0.2}},
            "error",
            id="the loss falls with them",
        ),
        pytest.param(FAIR | PENALIZED | {"scalars": {"accuracy": 0.97}}, None, id="penalties, good"),
        pytest.param(FAIR | PENALIZED | {"scalars": {"accuracy": 0.93, "data_loss": 0.2}}, None, id="penalties, fair"),
        pytest.param(
            FAIR
            | PENALIZED
            | {
                "scalars": {"accuracy": 0.93, "data_loss": 0.2},
                "asked": {"simple_gap": 0.12, "simple_gap_error": 0.01},
            },
            "error",
            id="penalties, fair, and a simple model does better",
        ),
        pytest.param(STUCK | VANISHED | {"steps": 200}, "error", id="weights all but vanished, nothing learned"),
        pytest.param(LOW | VANISHED, None, id="weights all but vanished, something learned"),
        pytest.param(LOW | PENALIZED | {"penalized": False}, None, id="weights that the loss has shrunk"),
        pytest.param(
            LOW | PENALIZED | {"scalars": {"accuracy": 0.7, "data_loss": 0.59}}, None, id="penalties are small"
        ),
        pytest.param(LOW | PENALIZED | {"table": {"dead_units": np.nan}}, None, id="penalties, weights as they were"),
        pytest.param(LOW | DECAYED, "error", id="weights decayed away, poor"),
        pytest.param(FAIR | DECAYED | {"scalars": {"accuracy": 0.97}}, None, id="weights decayed, good"),
        pytest.param(LOW | WIDE | {"optimizer": OptimizerInfo("adamw", 0.01, weight_decay=0.1)}, None, id="decay"),
        pytest.param(
            LOW | DECAYED | {"optimizer": OptimizerInfo("adamw", 0.001, weight_decay=0.01)},
            None,
            id="weights that the loss has shrunk: the usual decay can't",
        ),
        pytest.param(
            LOW | DECAYED | {"optimizer": OptimizerInfo("adam", 0.001, weight_decay=0.01)},
            None,
            id="decay within the gradient, almost nothing beside it",
        ),
        pytest.param(
            LOW | DECAYED | {"optimizer": OptimizerInfo("adam", 0.001, weight_decay=10.0)},
            "error",
            id="decay within the gradient, that leads it",
        ),
        pytest.param(LOW | {"layers": dense(1, 16, 1, activation="sigmoid")}, None, id="weights of channels"),
        pytest.param(
            LOW | {"layers": (LayerInfo("base", "dense", "relu", 16, 272, frozen=True), *dense(1, 16, 1))},
            None,
            id="an adapter of rank one to a frozen layer",
        ),
        pytest.param(LOW | {"layers": dense(1)}, None, id="a linear model on purpose"),
        pytest.param(LOW | {"layers": dense(16, 1, activation="linear")}, "warning", id="two linear layers"),
        pytest.param(FAIR | {"layers": dense(1)}, None, id="a linear model, fair"),
        pytest.param(
            LOW | LINEAR | {"asked": SIMPLE | {"linear_score": 0.7, "kernel_score": 0.9}},
            "error",
            id="two linear layers, and the data are not linear",
        ),
        pytest.param(
            LOW | LINEAR | {"asked": SIMPLE | {"linear_score": 0.85, "kernel_score": 0.9}},
            "warning",
            id="two linear layers, and a linear model does better, too",
        ),
        pytest.param(LOW | FEW | {"asked": SIMPLE | CURVED}, "error", id="few units, and the data are not linear"),
        pytest.param(LOW | FEW, None, id="few units"),
        pytest.param(
            LOW | FEW | {"asked": SIMPLE | {"linear_score": 0.85, "kernel_score": 0.9}},
            None,
            id="few units, and a linear model does better, too",
        ),
        pytest.param(LOW | WIDE | {"asked": SIMPLE | CURVED}, None, id="enough units"),
        pytest.param({"layers": dense(1, 16, 1)}, None, id="healthy"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = InsufficientCapacity().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def blocks(activation: str | None, *, gate: bool = False) -> dict[str, Any]:
    """Return a transformer of two blocks with this activation between the matrices of its feed-forward layers."""
    shapes = {"attn.value": (8, 8), "mlp.up": (32, 8), "mlp.gate": (32, 8), "mlp.down": (8, 32)}
    layers = [
        LayerInfo(f"h.{i}.{name}", "dense", activation if name == "mlp.up" else "linear", units, 300, inputs=inputs)
        for i in range(2)
        for name, (units, inputs) in shapes.items()
        if gate or name != "mlp.gate"
    ]
    return LOW | {"layers": (LayerInfo("tokens", "embedding", None, 8, 160, inputs=20), *layers, dense(1)[0])}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(blocks("linear"), "warning", id="no activation in any block"),
        pytest.param(blocks("gelu"), None, id="with activation"),
        pytest.param(blocks(None), None, id="unknown"),
        pytest.param(blocks("linear", gate=True), None, id="with a gate"),
        pytest.param(blocks("linear") | {"scalars": {"accuracy": 0.97}}, None, id="learned well"),
    ],
)
def test_linear_feed_forward_layers(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = InsufficientCapacity().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    assert finding is None or finding.layers == ("h.0.mlp.up", "h.1.mlp.up")


def test_the_narrow_layer_is_named(build: Callable[..., Any]) -> None:
    finding = InsufficientCapacity().check(*build(**LOW, **NARROW))
    assert finding is not None
    assert finding.layers == ("fc0",)
    assert "single unit" in finding.message


def test_penalties_are_named_beside_dropout(build: Callable[..., Any]) -> None:
    finding = InsufficientCapacity().check(*build(**LOW | PENALIZED | {"dropout": 0.9}))
    assert {"dropout", "penalty"} <= finding.evidence.keys()
