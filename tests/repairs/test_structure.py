"""What the repairs of the structure propose: widths, ways past layers, the output layer, attention."""

from __future__ import annotations

import math

import pytest

from autotrainer.edits import AddResidual, ClipAttention, ResizeLayers, ScaleOutputLayer
from autotrainer.records.signals import LayerInfo
from autotrainer.records.task import LossInfo
from autotrainer.repairs.add_residual import AddResidualRepair
from autotrainer.repairs.clip_attention import ClipAttentionRepair
from autotrainer.repairs.resize_hidden_layers import ResizeHiddenLayersRepair
from autotrainer.repairs.scale_output_layer import ScaleOutputLayerRepair

LOGITS = LossInfo("ce", "cross_entropy", "logits", "index", 1)
PROBABILITIES = LossInfo("bce", "binary_cross_entropy", "probabilities")
VALUES = LossInfo("mse", "squared_error", "values")


def dense(*units: int, kind: str = "dense", activation: str = "relu", **values: object) -> tuple[LayerInfo, ...]:
    """A chain of layers from four inputs; the last one makes the output."""
    inner = [
        LayerInfo(f"fc{i}", kind, activation, n, n * (before + 1), **values)  # type: ignore[arg-type]
        for i, (before, n) in enumerate(zip((4, *units), units[:-1], strict=False))
    ]
    return (*inner, LayerInfo("out", "dense", "linear", units[-1], units[-1] * (units[-2] + 1), hidden=False))


def proposed(repair, problem, finding, context, targets, layers, *, named=(), kind="index", **options):
    evidence = options.pop("evidence", {})
    given = finding(problem, layers=named, evidence=evidence)
    return list(repair().propose(given, context(layers=layers, **options), targets(kind)))


# -- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "wanted"),
    [
        ((32, 1, 24, 3), [{"fc1": 32}, {"fc0": 128, "fc1": 16, "fc2": 96}]),
        ((2, 1, 3), [{"fc1": 16}, {"fc0": 16, "fc1": 16}]),
    ],
)
def test_a_bottleneck_becomes_as_wide_as_the_other_layers(units, wanted, finding, context, targets) -> None:
    given = proposed(
        ResizeHiddenLayersRepair, "insufficient_capacity", finding, context, targets, dense(*units), named=("fc1",)
    )
    assert [p.edits for p in given] == [(ResizeLayers(tuple(w), tuple(w.values())),) for w in wanted]
    assert given[0].effect > given[1].effect
    assert 1 < given[0].cost < given[1].cost


def test_the_cost_of_wider_layers_is_estimated(finding, context, targets) -> None:
    given = proposed(ResizeHiddenLayersRepair, "not_learning", finding, context, targets, dense(8, 8, 3))
    before, after = 8 * 5 + 8 * 9 + 3 * 9, 32 * 5 + 16 * 8 * 9 + 3 * 9 * 4
    assert given[0].cost == pytest.approx(after / before)


@pytest.mark.parametrize(
    ("problem", "layers", "named"),
    [
        ("insufficient_capacity", dense(32, 32, 3), ()),  # dropout or weight decay holds it back
        ("insufficient_capacity", dense(1, 32, 3, frozen=True), ("fc0",)),
        ("not_learning", dense(64, 8, 3), ()),
        ("not_learning", dense(3, 3, kind="attention"), ()),
        ("dying_relu", (), ()),
    ],
)
def test_wide_frozen_and_unnamed_layers_stay_unchanged(problem, layers, named, finding, context, targets) -> None:
    assert not proposed(ResizeHiddenLayersRepair, problem, finding, context, targets, layers, named=named)


# -- residual connections ---------------------------------------------------------------------------------------------

NORM = LayerInfo("norm", "norm", "relu", 16, 32)
DEEP = dense(16, 16, 16, 16, 16, 3)


@pytest.mark.parametrize(
    ("layers", "wanted"),
    [
        (DEEP, ("fc1", "fc2", "fc3", "fc4")),
        (dense(16, 16, 16, 16, 3), None),
        (dense(16, 8, 16, 8, 16, 8, 3), None),
        (dense(16, 16, 16, 16, 16, 16, 3, activation="linear"), None),
        ((*DEEP[:2], NORM, *DEEP[2:]), None),
        ((*DEEP[:-1], LayerInfo("attention", "attention", "linear", 16, 99), DEEP[-1]), None),
        (dense(8, 16, 16, 16, 16, 16, 3), ("fc2", "fc3", "fc4", "fc5")),
    ],
)
def test_deep_stacks_of_equal_width_get_residual_connections(layers, wanted, finding, context, targets) -> None:
    given = proposed(AddResidualRepair, "vanishing_gradient", finding, context, targets, layers)
    assert [p.edits for p in given] == ([] if wanted is None else [(AddResidual(wanted),)])
    assert not proposed(AddResidualRepair, "vanishing_gradient", finding, context, targets, layers, dropout=0.1)


# -- the output layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "kind", "evidence", "factor"),
    [
        (LOGITS, "index", {"output_spread": 100.0}, 1e-3),
        (LOGITS, "index", {"output_spread": 25.0, "first_loss": 9.0}, 4e-3),
        (LOGITS, "index", {"output_spread": 1e9}, 1e-6),
        (LOGITS, "index", {}, 0.1),
        (LOGITS, "index", {"output_spread": math.nan}, 0.1),
        (LOGITS, "index", {"output_spread": 0.05}, None),
        (LOGITS, "index", {"output_spread": 0.104}, None),  # a factor that rounds to 1
        (PROBABILITIES, "binary", {"output_spread": 0.4, "first_loss": 10.0}, 0.01),
        (VALUES, "real", {"output_spread": 200.0}, 1e-3),
    ],
)
def test_the_factor_depends_on_the_first_outputs(loss, kind, evidence, factor, finding, context, targets) -> None:
    given = proposed(
        ScaleOutputLayerRepair, "abnormal_initial_loss", finding, context, targets, dense(8, 3),
        kind=kind, evidence=evidence, loss=loss,
    )  # fmt: skip
    assert [p.edits for p in given] == ([] if factor is None else [(ScaleOutputLayer(factor),)])


# -- attention --------------------------------------------------------------------------------------------------------


def test_attention_layers_and_layers_of_the_finding_are_bounded(finding, context, targets) -> None:
    layers = (
        LayerInfo("words", "embedding", None, 16, 800),
        LayerInfo("a", "attention", "linear", 16, 816),
        LayerInfo("b", "attention", "linear", 16, 816),
        LayerInfo("c", "attention", "linear", 16, 0, frozen=True),
        LayerInfo("qkv", "dense", "linear", 48, 816),
        LayerInfo("out", "dense", "linear", 2, 34, hidden=False),
    )
    problem = "attention_entropy_collapse"
    given = proposed(ClipAttentionRepair, problem, finding, context, targets, layers, named=("b", "qkv"))
    assert [p.edits for p in given] == [(ClipAttention(("a", "b", "qkv"), 10.0),)]
    assert not proposed(ClipAttentionRepair, problem, finding, context, targets, layers[-1:])
