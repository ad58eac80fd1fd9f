"""Repeated blocks, roles and siblings, as names and order of the layers show them."""

from __future__ import annotations

import numpy as np
import pytest

from autotrainer.records.measurement import fused_axis
from autotrainer.records.signals import LayerInfo
from autotrainer.rules._shared.siblings.blocks import stacks_of
from autotrainer.rules._shared.siblings.comparison import median_polish
from autotrainer.rules._shared.siblings.pairs import attention_gradients
from autotrainer.rules._shared.siblings.roles import role_of, role_words


def dense(name: str, units: int = 8, inputs: int = 8, kind: str = "dense") -> LayerInfo:
    return LayerInfo(name, kind, "linear", units, units * inputs, inputs=inputs)


def words(*names: str) -> list[str]:
    (stack,) = stacks_of(tuple(dense(name) for name in names))
    return [component.words for component in stack.components]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h.0.attn.q_proj", "query projection"),
        ("encoder.layer.3.attention.self.key", "key projection"),
        ("transformer/block_1/attention/value_dense", "value projection"),
        ("blocks.2.attn.proj", "output projection of the attention layer"),
        ("h.0.attn.c_proj", "output projection of the attention layer"),
        ("h.0.mlp.c_fc", "first feed-forward matrix"),
        ("model.layers.7.mlp.down_proj", "second feed-forward matrix"),
        ("decoder.layers.1.encoder_attn.k_proj", "cross-attention key projection"),
        ("blocks.0.mixer", "layer mixer"),
    ],
)
def test_role_is_read_from_the_name(name: str, expected: str) -> None:
    assert role_words(dense(name)) == expected


def test_role_of_a_feed_forward_matrix_follows_from_its_shape() -> None:
    assert [role_of(dense("b.0.a", *shape)) for shape in ((32, 8), (8, 32), (8, 8))] == ["expand", "contract", ""]


def test_blocks_are_numbered_as_in_the_names() -> None:
    assert words("h.2.attn.q_proj", "h.5.attn.q_proj") == [
        "query projection of block 2",
        "query projection of block 5",
    ]


def test_keras_names_count_per_layer_class_and_the_first_has_no_number() -> None:
    names = ["block/dense", "block/dense_1", "block_1/dense_2", "block_1/dense_3"]
    (stack,) = stacks_of(tuple(dense(name) for name in names))
    rows = [[component.row for component in line if component is not None] for line in stack.table]
    assert rows == [[0, 2], [1, 3]]


def test_order_shows_blocks_that_names_do_not() -> None:
    shapes = [(8, 16), (8, 8), (32, 8), (8, 32), (8, 8), (32, 8), (8, 32), (8, 8), (32, 8), (8, 32), (4, 8)]
    layers = tuple(dense(f"dense_{i}", *shape) for i, shape in enumerate(shapes))
    (stack,) = stacks_of(layers)
    assert [[c.row for c in line if c is not None] for line in stack.table] == [[1, 4, 7], [2, 5, 8], [3, 6, 9]]


def test_layers_of_other_shapes_are_no_siblings() -> None:
    names = ["stage.0.conv", "stage.1.conv", "stage.2.conv"]
    layers = tuple(dense(name, units) for name, units in zip(names, (8, 16, 16), strict=True))
    (stack,) = stacks_of(layers)
    assert [component.row for component in stack.components] == [1, 2]


def test_experts_are_compared_over_layers() -> None:
    layers = tuple(dense(f"layers.{i}.experts.{j}.w1") for i in range(4) for j in range(2))
    (stack,) = stacks_of(layers)
    assert len(stack.blocks) == 4
    assert len(stack.roles) == 2


@pytest.mark.parametrize("names", [("0", "2", "4", "6"), ("fc1", "fc2", "out"), ("block/dense",)])
def test_plain_networks_have_no_blocks(names: tuple[str, ...]) -> None:
    assert stacks_of(tuple(dense(name) for name in names)) == ()


@pytest.mark.parametrize(
    ("path", "shape", "axis"),
    [
        ("h.0.attn.c_attn", (8, 24), 1),
        ("blocks.0.attn.qkv", (24, 8), 0),
        ("block/attention/dense", (8, 24), 1),
        ("h.0.attn.c_attn", (8, 16), None),
        ("layers.0.fc1", (24, 8), None),
        ("layers.0.attention.query_key_value", (24, 8), None),
        ("h.0.attn.c_attn", (24,), None),
    ],
)
def test_fused_projections_are_recognized(path: str, shape: tuple[int, ...], axis: int | None) -> None:
    assert fused_axis(path, shape) == axis


def test_median_polish_leaves_a_single_cell() -> None:
    table = np.add.outer([0.0, 2.0, 5.0], [0.0, 1.0, 2.0, 3.0])
    table[1, 2] += 4
    rest = median_polish(table)
    assert rest[1, 2] == pytest.approx(4)
    rest[1, 2] = 0
    assert np.abs(rest).max() < 1e-9


def test_gradients_are_compared_within_a_role() -> None:
    names = [f"h.{i}.{role}" for i in range(3) for role in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.c_fc")]
    layers = tuple(dense(name) for name in (*names, "head"))
    norms = np.array([*[1e-6, 1e-6, 0.1, 0.2] * 3, 1.0])
    alike = attention_gradients(layers, norms, range(len(layers)))
    assert alike is not None
    assert alike.ratio == pytest.approx(1)
    assert attention_gradients((dense("fc1"), dense("fc2")), np.ones(2), [0, 1]) is None
