from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autotrainer.records.signals import LayerInfo
from autotrainer.rules.parameters_not_optimized import ParametersNotOptimized

LAYERS = (
    LayerInfo("body.0", "dense", "relu", 16, 2000),
    LayerInfo("body.1", "dense", "relu", 16, 3000),
    LayerInfo("neck", "dense", "relu", 16, 3000),
    LayerInfo("head", "dense", "linear", 1, 170, hidden=False),
)


def frozen(start: str) -> dict[str, Any]:
    """Return a run of a model whose first layers are frozen."""
    return {
        "layers": [replace(layer, parameters=0, frozen=True, start=start) for layer in LAYERS[:3]] + [LAYERS[3]],
        "table": {"dead_units": 0.0},
    }


POOR: dict[str, Any] = {"losses": lambda t: 0.6, "scalars": {"accuracy": 0.6}}
FAIR: dict[str, Any] = {"losses": lambda t: 0.6, "scalars": {"accuracy": 0.82}}
LEARNS: dict[str, Any] = {}


def left(*rows: int, share: float = 1.0, start: str = "", layers: Sequence[LayerInfo] = LAYERS) -> dict[str, Any]:
    """Return a run in which no optimizer owns (a share of) the parameters of some layers."""
    layers = [
        replace(layer, unowned=round(share * layer.parameters), start=start) if row in rows else layer
        for row, layer in enumerate(layers)
    ]
    moves = np.array([row not in rows or share < 1 for row in range(len(layers))])
    table = {
        "weight_norm": lambda t: 2.0 + moves * t * 1e-3,
        "update_ratio": np.where(moves, 1e-3, 0.0),
        "dead_units": 0.0,
    }
    return {"layers": layers, "table": table}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(left(3) | POOR, "error", id="the head was left out"),
        pytest.param(left(3) | POOR | {"planned_epochs": None}, "error", id="no schedule"),
        pytest.param(left(3) | LEARNS, "warning", id="the head was left out, but the rest learns"),
        pytest.param(left(2) | POOR, "error", id="a layer in the middle"),
        pytest.param(left(1, 2, 3) | POOR, "error", id="all but the first"),
        pytest.param(left(0, 1, 2) | POOR, "error", id="all but the head, and stuck"),
        pytest.param(left(0, 1, 2) | FAIR, "warning", id="a probe that is not good enough"),
        pytest.param(left(0, 1, 2) | LEARNS, "info", id="linear probing"),
        pytest.param(left(0, 1) | LEARNS, "info", id="the body of a network"),
        pytest.param(left(0, 1, 2) | POOR | {"steps": 15}, "info", id="a young probe"),
        pytest.param(left(0, 1, 2, start="drawn") | FAIR, "error", id="a probe of random features"),
        pytest.param(left(0, 1, 2, start="drawn") | LEARNS, "warning", id="random features that do"),
        pytest.param(left(0, 1, 2, 3, share=0.5) | POOR, "error", id="half of the parameters of each layer"),
        pytest.param(left(0, 1, 2, 3, share=0.01) | POOR, "warning", id="a few parameters"),
        pytest.param(left(), None, id="all owned"),
        pytest.param(frozen("drawn") | POOR, "error", id="frozen random layers, and stuck"),
        pytest.param(frozen("drawn") | FAIR, "warning", id="frozen random layers, not good enough"),
        pytest.param(frozen("drawn") | LEARNS, None, id="frozen random features that do"),
        pytest.param(frozen("") | POOR, None, id="frozen pretrained layers"),
    ],
)
def test_verdict(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ParametersNotOptimized().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def shut(start: str = "zero", norm: float = 0.0) -> dict[str, Any]:
    """Return a run whose output layer is frozen."""
    layers = [*LAYERS[:3], replace(LAYERS[3], parameters=0, frozen=True, start=start)]
    return {"layers": layers, "table": {"dead_units": 0.0}, "scalars": {"accuracy": 0.5, "grad_norm": norm}}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(shut() | {"losses": lambda t: 0.7}, "error", id="zeros in a frozen output layer"),
        pytest.param(shut("") | {"losses": lambda t: 0.7}, None, id="other weights"),
        pytest.param(shut(norm=0.3) | {"losses": lambda t: 0.6}, None, id="with gradients: another way out"),
    ],
)
def test_no_gradient_passes_zeros_that_are_frozen(
    build: Callable[..., Any], case: dict[str, Any], expected: str | None
) -> None:
    finding = ParametersNotOptimized().check(*build(**case))
    assert (finding.severity if finding else None) == expected
    assert finding is None or finding.layers == ("head",)


NORMED = (*LAYERS[:2], LayerInfo("norm", "norm", None, 16, 320), *LAYERS[2:])
TOWERS = (
    LayerInfo("image.a", "conv", "relu", 16, 2000),
    LayerInfo("text.a", "embedding", None, 16, 2000),
    LayerInfo("text.b", "dense", "relu", 16, 3000),
    LayerInfo("head", "dense", "linear", 1, 170, hidden=False),
)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(left(2, layers=NORMED) | POOR, "warning", id="normalization alone"),
        pytest.param(left(1, 2, layers=TOWERS) | LEARNS, "info", id="one of two towers"),
        pytest.param(left(2, layers=TOWERS) | POOR, "error", id="part of a tower"),
        pytest.param(left(0, 2) | POOR | {"steps": 30}, "info", id="adapters in a trained network"),
        pytest.param(left(0, 2, start="drawn") | POOR | {"steps": 30}, "error", id="most of a new network"),
        pytest.param(left(3) | POOR | {"steps": 4}, None, id="first steps"),
    ],
)
def test_verdict_depends_on_the_layers_left_out(
    build: Callable[..., Any], case: dict[str, Any], expected: str | None
) -> None:
    finding = ParametersNotOptimized().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def with_table(case: dict[str, Any], **table: Any) -> dict[str, Any]:
    return POOR | case | {"table": case["table"] | table}


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(
            with_table(left(3), weight_norm=lambda t: 2.0 + t * 1e-3), None, id="another optimizer, not watched"
        ),
        pytest.param(with_table(left(3), grad_norm=[0.3, 0.3, 0.3, 0.0]), None, id="no gradients either"),
        pytest.param(with_table(left(3), weight_norm=2.0), None, id="nothing changes at all"),
        pytest.param(
            with_table(left(3), weight_norm=2.0, grad_norm=[0.0, 0.0, 0.0, 0.3]),
            "error",
            id="no gradient passes the unowned head",
        ),
        pytest.param(with_table(left(3), weight_norm=np.nan), None, id="not measured"),
    ],
)
def test_evidence(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ParametersNotOptimized().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def owned_but_still(row: int, **table: Any) -> dict[str, Any]:
    case = left(row)
    return with_table({**case, "layers": LAYERS}, **{"grad_zero_fraction": 0.1, **table})


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        pytest.param(owned_but_still(1), "error", id="owned, with gradients, and never changed"),
        pytest.param(owned_but_still(1, grad_norm=[0.3, 1e-6, 0.3, 0.3]), None, id="steps too small to show"),
        pytest.param(owned_but_still(1, grad_zero_fraction=0.9), None, id="sparse gradients: others change"),
        pytest.param(owned_but_still(1, update_ratio=1e-4), None, id="changes without changing its norm"),
    ],
)
def test_owned_parameters(build: Callable[..., Any], case: dict[str, Any], expected: str | None) -> None:
    finding = ParametersNotOptimized().check(*build(**case))
    assert (finding.severity if finding else None) == expected


def test_embeddings_with_unused_rows_are_ignored(build: Callable[..., Any]) -> None:
    case = owned_but_still(0)
    case["layers"] = (replace(LAYERS[0], kind="embedding"), *LAYERS[1:])
    assert ParametersNotOptimized().check(*build(**case)) is None


def test_names_layers_and_counts(build: Callable[..., Any]) -> None:
    finding = ParametersNotOptimized().check(*build(**left(0, 1, 2, 3, share=0.5), **POOR))
    assert finding is not None
    assert finding.layers == tuple(layer.name for layer in LAYERS)
    assert finding.evidence["parameters"] == 1000 + 1500 + 1500 + 85
    assert "and 1 more" in finding.message


def test_later_ownership_is_read_from_the_context(build: Callable[..., Any]) -> None:
    history, context = build(**left(3, share=0.5), **POOR)
    assert ParametersNotOptimized().check(history, context) is not None
    assert ParametersNotOptimized().check(history, replace(context, layers=LAYERS)) is None


@pytest.mark.parametrize(
    ("losses", "steps", "facts", "expected"),
    [
        (128, 0, {}, "error"),
        (128, 0, {"weights_changed": 0.0, "other_optimizer_steps": 0.0}, "error"),
        (20, 0, {}, None),
        (128, 600, {}, None),
        (128, 0, {"weights_changed": 1.0}, None),  # the loop changes them itself
        (128, 0, {"other_optimizer_steps": 128.0}, None),
    ],
)
def test_an_optimizer_that_never_steps_is_an_error(
    build: Callable[..., Any], losses: float, steps: int, facts: dict[str, float], expected: str | None
) -> None:
    history, context = build(steps=steps, asked={"losses_without_step": losses, **facts}, finished=True)
    finding = ParametersNotOptimized().check(history, context)
    assert (finding.severity if finding else None) == expected


@pytest.mark.parametrize(
    ("framework", "ran", "case", "expected"),
    [
        ("keras3", True, POOR, "error"),
        ("keras3", True, FAIR, "warning"),
        ("keras3", True, LEARNS, "info"),
        ("keras3", False, POOR, None),
        ("pytorch", True, POOR, None),
    ],
)
def test_layers_that_a_training_step_gives_to_no_optimizer(
    build: Callable[..., Any], framework: str, ran: bool, case: dict[str, Any], expected: str | None
) -> None:
    run = left(0, 1, 2) | case
    gradients = np.array([np.nan, np.nan, np.nan, 0.1])
    run["table"] = run["table"] | {"grad_norm": gradients, "activation_std": 1.0 if ran else np.nan}
    history, context = build(**run)
    found = ParametersNotOptimized().check(history, replace(context, framework=framework))
    assert (found.severity if found else None) == expected
    teacher = tuple(replace(layer, origin="trained") for layer in history.layers)
    context = replace(
        context, framework=framework, layers=tuple(replace(each, origin="trained") for each in context.layers)
    )
    found = ParametersNotOptimized().check(build(**run | {"layers": teacher})[0], context)
    assert (found.severity if found else None) == (expected and "info"), "a network that is not to be trained"


@pytest.mark.parametrize(
    ("case", "count", "drawn", "expected"),
    [
        pytest.param(POOR, 500, 1, "error", id="layers in a plain list"),
        pytest.param(LEARNS, 500, 1, "warning", id="they are not needed"),
        pytest.param(LEARNS, 500, 0, "info", id="a pretrained network kept outside"),
        pytest.param(POOR, 500, 0, "error", id="a pretrained network that does not help"),
        pytest.param(POOR, 0, 0, None, id="all belong to the model"),
        pytest.param(POOR, np.nan, np.nan, None, id="not known"),
        pytest.param(POOR, lambda t: 500 if t < 100 else 0, 1, None, id="another optimizer trains them later"),
    ],
)
def test_parameters_outside_of_the_model(
    build: Callable[..., Any], case: dict[str, Any], count: Any, drawn: float, expected: str | None
) -> None:
    scalars = {**case.get("scalars", {}), "outside_parameters": count, "outside_drawn": drawn}
    finding = ParametersNotOptimized().check(*build(**{**case, "scalars": scalars}))
    assert (finding.severity if finding else None) == expected
    assert finding is None or finding.evidence["parameters"] == 500


def test_frozen_layers_are_not_to_blame_if_no_gradient_arrives(build: Callable[..., Any]) -> None:
    case = {**frozen("drawn"), **POOR, "finished": True}
    assert ParametersNotOptimized().check(*build(**case)) is not None
    closed = {**case, "scalars": {**POOR["scalars"], "grad_norm": 0.0}}
    assert ParametersNotOptimized().check(*build(**closed)) is None


def test_a_model_without_trainable_parameters(build: Callable[..., Any]) -> None:
    layers = tuple(LayerInfo(name, "dense", "relu", 16, 0, frozen=True) for name in ("one", "two", "three"))
    case = {**POOR, "layers": layers, "table": {"update_ratio": np.nan, "grad_norm": np.nan}}
    case["scalars"] = {**POOR["scalars"], "grad_norm": np.nan}
    finding = ParametersNotOptimized().check(*build(**case))
    assert finding is not None
    assert finding.severity == "error"
    assert finding.message.startswith("No parameter of the model is trainable")


def test_random_variables_of_keras_that_the_model_does_not_need_are_a_fact(build: Callable[..., Any]) -> None:
    scalars = {**LEARNS.get("scalars", {}), "outside_parameters": 500, "outside_drawn": 1}
    finding = ParametersNotOptimized().check(*build(**{**LEARNS, "scalars": scalars}, framework="keras3"))
    assert finding is not None
    assert finding.severity == "info"
    assert "add_weight" in finding.message
