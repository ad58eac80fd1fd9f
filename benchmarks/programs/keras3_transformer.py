"""Transformers in Keras 3 as people write them; see `pytorch_transformer`, whose descriptions and faults they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from benchmarks.data.tokens import LENGTH, PAD, VOCABULARY
from benchmarks.programs.transformer_weights import Weights, in_block, is_part

__all__ = ["build", "freeze", "set_weights", "weights_of"]

Spec = Mapping[str, Any]

_PROJECTIONS = ("query", "key", "value")


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.08)


def _dense(units: int, name: str, **settings: Any) -> layers.Dense:
    return layers.Dense(units, kernel_initializer=_normal(), name=name, **settings)


class Attention(layers.Layer):  # type: ignore[misc]  # Keras has no types
    """Self-attention; the mask is True where a query may look."""

    def __init__(self, spec: Spec, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        units, self.heads, self.kind = int(spec["units"]), int(spec["heads"]), str(spec["attention"])
        self.size = units // self.heads
        wrong = spec.get("wrong", {})
        self.factor = {None: 1.0, "missing": self.size**0.5, "doubled": self.size**-0.5}[
            in_block(wrong, "scale", index)
        ]
        self.axis = in_block(wrong, "softmax_axis", index) or -1
        self.dead_heads = int(in_block(wrong, "dead_heads", index) or 0)
        self.rate = float(spec.get("dropout", 0.0))
        self.always = float(in_block(wrong, "attention_dropout", index) or 0.0)
        self.joint = spec["projections"] == "joint" and self.kind != "module"
        self.dropout = layers.Dropout(self.always or self.rate, name="attention_dropout")
        if self.kind == "module":
            self.attention = layers.MultiHeadAttention(
                self.heads, self.size, dropout=self.rate, kernel_initializer=_normal(), name="attention"
            )
        elif self.joint:
            self.qkv, self.output_dense = _dense(3 * units, "qkv"), _dense(units, "output")
        else:
            self.query, self.key, self.value = (_dense(units, name) for name in _PROJECTIONS)
            self.output_dense = _dense(units, "output")

    def call(self, x: Any, mask: Any, training: bool = False) -> Any:
        """Return the same shape as ``x`` (rows, time, units); ``mask``: (rows, time, time)."""
        if self.kind == "module":
            return self.attention(x, x, attention_mask=mask, training=training)
        parts = ops.split(self.qkv(x), 3, axis=-1) if self.joint else (self.query(x), self.key(x), self.value(x))
        q, k, v = (ops.reshape(part, (-1, ops.shape(x)[1], self.heads, self.size)) for part in parts)
        if self.factor != 1:
            q = q * self.factor
        if self.kind == "fused" and not self.always and not self.rate:  # it has no dropout
            heads = ops.dot_product_attention(q, k, v, bias=_added(mask)[:, None])
        else:
            scores = ops.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.size) + _added(mask)[:, None]
            weights = self.dropout(ops.softmax(scores, axis=self.axis), training=bool(self.always) or training)
            heads = ops.einsum("bhqk,bkhd->bqhd", weights, v)
        if self.dead_heads:
            alive = np.arange(self.heads) >= self.dead_heads
            heads = heads * ops.convert_to_tensor(alive.astype("float32"))[:, None]
        return self.output_dense(ops.reshape(heads, ops.shape(x)))


class FeedForward(layers.Layer):  # type: ignore[misc]
    """Two dense layers with an activation between them."""

    def __init__(self, spec: Spec, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        units, missing = int(spec["units"]), in_block(spec.get("wrong", {}), "no_activation", index)
        self.expand = _dense(4 * units, "expand", activation=None if missing else str(spec["activation"]))
        self.contract = _dense(units, "contract")

    def call(self, x: Any) -> Any:
        """Return the same shape."""
        return self.contract(self.expand(x))


class BatchStatisticsNorm(layers.Layer):  # type: ignore[misc]
    """A layer norm whose mean and variance are taken over other axes than the last."""

    def __init__(self, axes: tuple[int, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes = axes

    def build(self, input_shape: tuple[int, ...]) -> None:
        """Create scale and bias."""
        self.gamma = self.add_weight(shape=input_shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=input_shape[-1:], initializer="zeros", name="beta")

    def call(self, x: Any) -> Any:
        """Return the same shape."""
        mean, variance = ops.moments(x, self.axes, keepdims=True)
        return (x - mean) / ops.sqrt(variance + 1e-5) * self.gamma + self.beta


def _norm(spec: Spec, index: int | None, name: str) -> layers.Layer:
    wrong = spec.get("wrong", {})
    fault = wrong.get("final_norm") if index is None else in_block(wrong, "norm", index)
    if fault == "missing":
        return layers.Identity(name=name)
    if fault in ("over_time", "over_batch"):
        return BatchStatisticsNorm((1,) if fault == "over_time" else (0, 1), name=name)
    return layers.LayerNormalization(epsilon=100.0 if fault == "eps" else 1e-5, name=name)


class Block(layers.Layer):  # type: ignore[misc]
    """Attention and feed-forward layers, each with a norm and a shortcut."""

    def __init__(self, spec: Spec, index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.norm1, self.norm2 = _norm(spec, index, "norm1"), _norm(spec, index, "norm2")
        self.attention = Attention(spec, index, name="attention")
        self.feed_forward = FeedForward(spec, index, name="feed_forward")
        self.dropout = layers.Dropout(float(spec.get("dropout", 0.0)), name="dropout")
        self.before = spec["norm"] == "pre"
        shortcut = in_block(spec.get("wrong", {}), "shortcut", index)
        self.shortcut = 1.0 if shortcut is None else float(shortcut)

    def call(self, x: Any, mask: Any, training: bool = False) -> Any:
        """Return the same shape."""
        if self.before:
            x = self._add(x, self.attention(self.norm1(x), mask, training=training), training)
            return self._add(x, self.feed_forward(self.norm2(x)), training)
        x = self.norm1(self._add(x, self.attention(x, mask, training=training), training))
        return self.norm2(self._add(x, self.feed_forward(x), training))

    def _add(self, x: Any, change: Any, training: bool) -> Any:
        change = self.dropout(change, training=training)
        if self.shortcut == 1:
            return x + change
        return self.shortcut * x + change if self.shortcut else change


class Transformer(keras.Model):  # type: ignore[misc]
    """An encoder that gives a class for each sequence, or a decoder that gives scores of the next tokens."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        units, wrong = int(spec["units"]), spec.get("wrong", {})
        self.decodes, self.pool = spec["form"] == "decoder", str(spec.get("pool", "first"))
        self.tied = bool(spec.get("tied"))
        embedding = layers.ReversibleEmbedding if self.tied else layers.Embedding
        self.tokens = embedding(VOCABULARY, units, embeddings_initializer=_normal(), name="tokens")
        self.positions = layers.Embedding(LENGTH, units, embeddings_initializer=_normal(), name="positions")
        self.position_fault, self.embedding_factor = wrong.get("positions"), float(wrong.get("embedding_factor", 1))
        self.causal_fault, self.padding_fault = wrong.get("causal_mask"), wrong.get("padding_mask")
        self.pool_fault = wrong.get("pool")
        self.blocks = [Block(spec, i, name=f"block_{i}") for i in range(int(spec["blocks"]))]
        self.final_norm = _norm(spec, None, "norm")
        self.dropout = layers.Dropout(float(spec.get("dropout", 0.0)), name="dropout")
        self.head = None if self.tied else _dense(int(spec["outputs"]), "head", use_bias=not self.decodes)

    def call(self, tokens: Any, training: bool = False) -> Any:
        """Return scores, (rows, outputs) or (rows, time, outputs), of tokens (rows, time)."""
        x = self.dropout(self._embed(tokens), training=training)
        mask = self._mask(tokens)
        for block in self.blocks:
            x = block(x, mask, training=training)
        x = self.final_norm(x)
        if self.head is None:
            return self.tokens(x, reverse=True)
        return self.head(x if self.decodes else self._pooled(x, tokens))

    def _embed(self, tokens: Any) -> Any:
        x = self.tokens(tokens)
        if self.embedding_factor != 1:
            x = x * self.embedding_factor
        if self.position_fault == "missing":
            return x
        steps = np.zeros(LENGTH, "int32") if self.position_fault == "constant" else np.arange(LENGTH, dtype="int32")
        positions = self.positions(ops.convert_to_tensor(steps))
        return x + (ops.stop_gradient(positions) if self.position_fault == "detached" else positions)

    def _mask(self, tokens: Any) -> Any:
        """Return where queries may look: (rows, time, time)."""
        padding = ops.equal(tokens, PAD)[:, None, :]
        if self.padding_fault == "inverted":
            padding = ops.logical_not(padding)
        elif self.padding_fault == "missing":
            padding = ops.zeros_like(padding)
        rows = ops.ones((1, LENGTH, 1), dtype="bool")
        if not self.decodes or self.causal_fault == "missing":
            return ops.logical_and(rows, ops.logical_not(padding))
        later = np.triu(np.ones((LENGTH, LENGTH), bool), 2 if self.causal_fault == "off_by_one" else 1)
        later = later.T if self.causal_fault == "inverted" else later
        return ops.logical_not(ops.logical_or(padding, ops.convert_to_tensor(later)[None]))

    def _pooled(self, x: Any, tokens: Any) -> Any:
        if self.pool_fault in ("last", "second"):
            return x[:, -1 if self.pool_fault == "last" else 1]
        if self.pool == "first":
            return x[:, 0]
        weights = ops.cast(ops.not_equal(tokens, PAD), "float32")[..., None]
        return ops.sum(x * weights, 1) / ops.sum(weights, 1)


def build(spec: Spec) -> Transformer:
    """Return a network with freshly drawn weights."""
    model = Transformer(spec)
    model(np.ones((1, LENGTH), "int32"))
    return model


def freeze(model: Transformer, names: tuple[str, ...]) -> None:
    """Make parts of a network untrainable, by their neutral names."""
    for path, layer in _paths(model):
        if any(is_part(path, name) for name in names):
            layer.trainable = False


def weights_of(model: Transformer) -> Weights:
    """Return the weights of a network under neutral names, joint projections taken apart; kernels are (out, in)."""
    weights: Weights = {}
    for path, layer in _paths(model):
        for variable in layer.weights:
            weights.update(_neutral(path, variable))
    return weights


def set_weights(model: Transformer, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load weights under neutral names; those that are not given stay."""
    for path, layer in _paths(model):
        for variable in layer.weights:
            parts = {name: weights.get(name, value) for name, value in _neutral(path, variable).items()}
            value = np.concatenate(list(parts.values()))
            kernel = variable.name == "kernel"
            variable.assign((value.T if kernel else value).reshape(variable.shape))


def _neutral(path: str, variable: Any) -> Weights:
    value = np.asarray(ops.convert_to_numpy(variable))
    if variable.name == "kernel":
        if value.ndim == 3:  # (units, heads, size), or (heads, size, units) of the output
            value = value.reshape(-1, value.shape[-1]) if path.endswith("output") else value.reshape(len(value), -1)
        value = value.T
    elif variable.name == "bias":
        value = value.reshape(-1)
    part = {"kernel": "weight", "embeddings": "weight", "gamma": "weight", "beta": "bias"}.get(variable.name, "bias")
    if path.endswith("qkv"):
        owner = path.removesuffix("qkv")
        thirds = np.split(value, 3)
        return {f"{owner}{name}.{part}": third for name, third in zip(_PROJECTIONS, thirds, strict=True)}
    return {f"{path}.{part}": value}


def _paths(model: Transformer) -> Iterator[tuple[str, layers.Layer]]:
    """Yield the layers that own weights, with their neutral names."""
    yield from (("tokens", model.tokens), ("positions", model.positions), ("norm", model.final_norm))
    if model.head is not None:
        yield "head", model.head
    for index, block in enumerate(model.blocks):
        at = f"blocks.{index}"
        yield from ((f"{at}.norm1", block.norm1), (f"{at}.norm2", block.norm2))
        yield from ((f"{at}.feed_forward.{part}", getattr(block.feed_forward, part)) for part in ("expand", "contract"))
        attention = block.attention
        if attention.kind == "module":
            module = attention.attention
            parts = {"query": module._query_dense, "key": module._key_dense, "value": module._value_dense}
            yield from ((f"{at}.attention.{name}", layer) for name, layer in parts.items())
            yield f"{at}.attention.output", module._output_dense
            continue
        names = ("qkv",) if attention.joint else _PROJECTIONS
        yield from ((f"{at}.attention.{name}", getattr(attention, name)) for name in names)
        yield f"{at}.attention.output", attention.output_dense


def _added(mask: Any) -> Any:
    """Return what a mask adds to scores: finite, so that a row with nothing to see is uniform."""
    return ops.where(mask, 0.0, -1e9)
