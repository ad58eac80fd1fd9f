"""Attention that functions compute is measured like that of a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import autotrainer
from autotrainer.backends.keras3.engines.functional_attention import fused_tensors
from autotrainer.backends.keras3.model.watched_layers import watched_layers
from autotrainer.backends.keras3.statistics.attention import attention_values
from autotrainer.monitoring.monitor import Monitor
from autotrainer.records.measurement import ATTENTION_COLUMNS

WITHOUT_MASK = tuple(name for name in ATTENTION_COLUMNS if name != "padding_shown")
TOKENS = np.random.RandomState(0).randint(0, 20, (16, 6))
MASK = np.where(np.tri(6, dtype=bool), 0.0, -1e9).astype("float32")[None, None]


@keras.saving.register_keras_serializable()
class Attention(kl.Layer):  # type: ignore[misc]  # Keras has no types
    """Causal attention of two heads: fused, written out or in groups; after separate projections or a joint one."""

    def __init__(self, kind: str, joint: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self.kind, self.joint = kind, joint
        names = ("qkv",) if joint else ("query", "key", "value")
        self.projections = [kl.Dense(24 if joint else 8, kernel_initializer="ones", name=name) for name in names]

    def call(self, x: Any) -> Any:
        """Return the same shape as ``x``."""
        parts = [projection(x) for projection in self.projections]
        parts = ops.split(parts[0], 3, axis=-1) if self.joint else parts
        q, k, v = (ops.reshape(part, (-1, 6, 2, 4)) for part in parts)
        if self.kind == "fused":
            return ops.reshape(ops.dot_product_attention(q, k, v, bias=ops.convert_to_tensor(MASK)), ops.shape(x))
        if self.kind == "scaled":  # to the same logits
            result = ops.dot_product_attention(q / 2, k, v, bias=ops.convert_to_tensor(MASK), scale=2 / math.sqrt(4))
            return ops.reshape(result, ops.shape(x))
        if self.kind == "grouped":  # two groups of one head
            scores = ops.einsum("bqgnd,bkgd->bgnqk", q[:, :, :, None], k) / math.sqrt(4) + MASK[:, None]
            return ops.reshape(ops.einsum("bgnqk,bkgd->bqgnd", ops.softmax(scores), v), ops.shape(x))
        scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(4) + MASK
        return ops.reshape(ops.einsum("bhqk,bkhd->bqhd", ops.softmax(scores), v), ops.shape(x))


def trained(kind: str, joint: bool) -> Monitor:
    keras.utils.set_random_seed(0)
    tokens = keras.Input((6,), dtype="int32")
    x = kl.Embedding(20, 8)(tokens)
    x = Attention(kind, joint, name="attention")(kl.LayerNormalization()(x))
    model = keras.Model(tokens, kl.Dense(3, kernel_initializer="zeros")(kl.GlobalAveragePooling1D()(x)))
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with autotrainer.watch(model, overhead=1, log_dir=None) as monitor:
        model.fit(TOKENS, TOKENS[:, 0] % 3, batch_size=8, shuffle=False, verbose=0)
    return monitor


@pytest.mark.slow
def test_fused_and_written_attention_are_measured_alike() -> None:
    expected = None
    for kind, joint in (("fused", False), ("scaled", False), ("written", False), ("written", True), ("grouped", False)):
        monitor = trained(kind, joint)
        names = [layer.name for layer in monitor.history.layers]
        row = next(i for i, name in enumerate(names) if name.endswith("qkv" if joint else "query"))
        columns = np.array([monitor.history.layer(name)[0] for name in WITHOUT_MASK])
        assert np.isnan(np.delete(columns, row, axis=1)).all(), names
        assert np.isfinite(columns[:, row]).all()
        expected = columns[:, row] if expected is None else expected
        np.testing.assert_allclose(columns[:, row], expected, rtol=1e-3, atol=1e-5)


def test_heads_of_queries_may_share_keys() -> None:
    random = np.random.default_rng(0)
    query, key = random.normal(size=(2, 6, 4, 3)), random.normal(size=(2, 6, 2, 3))
    shared = attention_values(0, {"attention:0:query": query, "attention:0:key": key})
    repeated = attention_values(0, {"attention:0:query": query, "attention:0:key": key[:, :, [0, 0, 1, 1]]})
    assert shared == repeated
    assert set(shared) == set(WITHOUT_MASK)


@pytest.mark.parametrize(
    ("hide", "shown"),
    [
        pytest.param(lambda tokens: tokens != 0, 1.0, id="the wrong way round"),
        pytest.param(lambda tokens: tokens == 0, 0.0, id="padding"),
        pytest.param(lambda tokens: np.arange(6) > 0 * tokens, 0.0, id="all but the first token"),
        pytest.param(lambda tokens: tokens < 0, None, id="nothing"),
    ],
)
def test_masks_that_show_padding(hide: Callable[[Any], Any], shown: float | None) -> None:
    tokens = np.arange(24).reshape(4, 6) % 7 + 1
    tokens[np.arange(6) >= np.array([[3], [4], [5], [2]])] = 0
    query = np.random.default_rng(0).normal(size=(4, 6, 2, 3))
    seen = {"attention:1:query": query, "attention:1:key": query, "attention:1:mask": ~hide(tokens), "lookup:0": tokens}
    logits = np.where(hide(tokens)[:, None, None], -1e9, np.zeros((4, 2, 6, 6)))
    with np.errstate(invalid="ignore"):  # as where it is called
        assert attention_values(1, seen).get("padding_shown") == shown
        assert attention_values(1, {"attention:1:logits": logits, "lookup:0": tokens}).get("padding_shown") == shown


@pytest.mark.parametrize("inverted", [True, False])
def test_a_mask_the_wrong_way_round_is_named(inverted: bool) -> None:
    words = np.arange(96).reshape(16, 6) % 7 + 1
    words[np.arange(6) >= 2 + np.arange(16)[:, None] % 4] = 0
    tokens = keras.Input((6,), dtype="int32")
    known = keras.ops.not_equal(tokens, 0)
    mask = keras.ops.logical_not(known) if inverted else known
    x = kl.Embedding(8, 8)(tokens)
    x = kl.MultiHeadAttention(2, 4)(x, x, attention_mask=mask[:, None, :])
    model = keras.Model(tokens, kl.Dense(2)(kl.GlobalAveragePooling1D()(x)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with autotrainer.watch(model, overhead=1, log_dir=None, progress=False) as monitor:
        model.fit(words, words[:, 0] % 2, batch_size=8, epochs=4, verbose=0)
    errors = [each.problem for each in monitor.findings if each.severity == "error"]
    assert ("broken_attention_mask" in errors) == inverted


@pytest.mark.parametrize(
    ("heads", "scale", "measured"),
    [(2, None, True), (2, 0.5, True), (1, None, True), (3, None, False), (2, np.ones(1), False)],
)
def test_fused_calls_that_are_followed(heads: int, scale: Any, measured: bool) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 8)), kl.Dense(8, name="query")])
    query, key = ops.ones((1, 6, 2, 4)), ops.ones((1, 6, heads, 4))
    outputs = {0: ops.ones((1, 6, 8))}
    tensors = fused_tensors(watched_layers(model), outputs, [0], query, key, scale=scale)
    assert set(tensors) == ({"attention:0:query", "attention:0:key"} if measured else set())
    if measured:
        expected = 1 if scale is None else scale * math.sqrt(4)
        np.testing.assert_allclose(ops.convert_to_numpy(tensors["attention:0:query"]), expected)
