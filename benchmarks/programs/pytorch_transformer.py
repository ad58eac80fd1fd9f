"""Transformers in PyTorch as people write them, with the faults that can be built into them.

A network is described by one layer of a program (``type`` ``transformer``): ``form`` (``encoder`` or ``decoder``),
``units``, ``heads``, ``blocks``, ``outputs``; ``attention``: ``plain`` (softmax written out), ``fused``
(``scaled_dot_product_attention``) or ``module`` (``nn.MultiheadAttention``); ``projections``: ``separate`` or
``joint``; ``norm``: ``pre`` or ``post``; ``pool``: ``first`` or ``mean``; ``tied``, ``dropout``, ``activation``.
``wrong`` holds faults by their place (`benchmarks.generator.transformers.faults`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.data.tokens import LENGTH, PAD, VOCABULARY
from benchmarks.programs.transformer_weights import Weights, in_block

__all__ = ["PROJECTIONS", "Transformer", "set_weights", "weights_of"]

Spec = Mapping[str, Any]

PROJECTIONS = ("query", "key", "value")
"""Parts of a joint projection, in this order."""


def _added(mask: Tensor) -> Tensor:
    """Return what a mask adds to scores: finite, as in most libraries, so that a row with nothing to see is uniform."""
    return torch.zeros(mask.shape).masked_fill(mask, -1e9)


class Attention(nn.Module):
    """Self-attention; the mask is True where a query must not look."""

    def __init__(self, spec: Spec, index: int) -> None:
        super().__init__()
        units, self.heads, self.kind = int(spec["units"]), int(spec["heads"]), str(spec["attention"])
        wrong = spec.get("wrong", {})
        self.scale = {None: 1.0, "missing": (units // self.heads) ** 0.5, "doubled": (units // self.heads) ** -0.5}[
            in_block(wrong, "scale", index)
        ]
        self.axis = in_block(wrong, "softmax_axis", index) or -1
        self.dead_heads = int(in_block(wrong, "dead_heads", index) or 0)
        self.rate = float(spec.get("dropout", 0.0))
        self.always = float(in_block(wrong, "attention_dropout", index) or 0.0)
        self.joint = spec["projections"] == "joint"
        if self.kind == "module":
            self.attention = nn.MultiheadAttention(units, self.heads, dropout=self.rate, batch_first=True)
        elif self.joint:
            self.qkv, self.output = nn.Linear(units, 3 * units), nn.Linear(units, units)
        else:
            self.query, self.key, self.value = (nn.Linear(units, units) for _ in range(3))
            self.output = nn.Linear(units, units)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the same shape as ``x`` (rows, time, units); ``mask``: (rows, 1, time, time)."""
        rows, time, units = x.shape
        if self.kind == "module":
            full = mask.expand(rows, self.heads, time, time).reshape(-1, time, time)
            out: Tensor = self.attention(x, x, x, attn_mask=_added(full), need_weights=False)[0]
            return out
        parts = self.qkv(x).chunk(3, -1) if self.joint else (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(rows, time, self.heads, -1).transpose(1, 2) for part in parts)
        if self.scale != 1:
            q = q * self.scale
        rate = self.always or (self.rate if self.training else 0.0)
        if self.kind == "fused":
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=_added(mask), dropout_p=rate)
        else:
            scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + _added(mask)
            weights = F.dropout(scores.softmax(self.axis), rate)
            heads = weights @ v
        if self.dead_heads:
            heads = torch.cat([torch.zeros_like(heads[:, : self.dead_heads]), heads[:, self.dead_heads :]], 1)
        out = self.output(heads.transpose(1, 2).reshape(rows, time, units))
        return out


class FeedForward(nn.Module):
    """Two dense layers with an activation between them."""

    def __init__(self, spec: Spec, index: int) -> None:
        super().__init__()
        units = int(spec["units"])
        self.expand, self.contract = nn.Linear(units, 4 * units), nn.Linear(4 * units, units)
        missing = in_block(spec.get("wrong", {}), "no_activation", index)
        self.activation: nn.Module = (
            nn.Identity() if missing else {"gelu": nn.GELU, "relu": nn.ReLU}[str(spec["activation"])]()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        out: Tensor = self.contract(self.activation(self.expand(x)))
        return out


class BatchStatisticsNorm(nn.LayerNorm):
    """A layer norm whose mean and variance are taken over other axes than the last."""

    def __init__(self, units: int, axes: tuple[int, ...]) -> None:
        super().__init__(units)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        mean, variance = x.mean(self.axes, keepdim=True), x.var(self.axes, unbiased=False, keepdim=True)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias


def _norm(spec: Spec, index: int | None) -> nn.Module:
    wrong, units = spec.get("wrong", {}), int(spec["units"])
    fault = wrong.get("final_norm") if index is None else in_block(wrong, "norm", index)
    if fault == "missing":
        return nn.Identity()
    if fault == "eps":
        return nn.LayerNorm(units, eps=100.0)
    if fault in ("over_time", "over_batch"):
        return BatchStatisticsNorm(units, (1,) if fault == "over_time" else (0, 1))
    return nn.LayerNorm(units)


class Block(nn.Module):
    """Attention and feed-forward layers, each with a norm and a shortcut."""

    def __init__(self, spec: Spec, index: int) -> None:
        super().__init__()
        self.norm1, self.attention = _norm(spec, index), Attention(spec, index)
        self.norm2, self.feed_forward = _norm(spec, index), FeedForward(spec, index)
        self.dropout = nn.Dropout(float(spec.get("dropout", 0.0)))
        self.before = spec["norm"] == "pre"
        shortcut = in_block(spec.get("wrong", {}), "shortcut", index)
        self.shortcut = 1.0 if shortcut is None else float(shortcut)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the same shape."""
        if self.before:
            x = self._add(x, self.attention(self.norm1(x), mask))
            return self._add(x, self.feed_forward(self.norm2(x)))
        x = self.norm1(self._add(x, self.attention(x, mask)))
        out: Tensor = self.norm2(self._add(x, self.feed_forward(x)))
        return out

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(change)
        if self.shortcut == 1:
            return x + dropped
        return self.shortcut * x + dropped if self.shortcut else dropped


class Transformer(nn.Module):
    """An encoder that gives a class for each sequence, or a decoder that gives scores of the next tokens."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        units, wrong = int(spec["units"]), spec.get("wrong", {})
        self.decodes, self.pool = spec["form"] == "decoder", str(spec.get("pool", "first"))
        self.tokens, self.positions = nn.Embedding(VOCABULARY, units), nn.Embedding(LENGTH, units)
        self.position_fault, self.embedding_factor = wrong.get("positions"), float(wrong.get("embedding_factor", 1))
        self.causal_fault, self.padding_fault = wrong.get("causal_mask"), wrong.get("padding_mask")
        self.pool_fault = wrong.get("pool")
        self.blocks = nn.ModuleList(Block(spec, i) for i in range(int(spec["blocks"])))
        self.norm = _norm(spec, None)
        self.dropout = nn.Dropout(float(spec.get("dropout", 0.0)))
        self.head = nn.Linear(units, int(spec["outputs"]), bias=not self.decodes)
        for module in self.modules():  # as GPT-2 and BERT draw them, wider for networks as small as these
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, 0.0, 0.08)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        if spec.get("tied"):
            self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Return scores, (rows, outputs) or (rows, time, outputs), of tokens (rows, time)."""
        x = self.dropout(self._embed(tokens))
        mask = self._mask(tokens)
        for block in self.blocks:
            x = block(x, mask)
        x = self.norm(x)
        out: Tensor = self.head(x if self.decodes else self._pooled(x, tokens))
        return out

    def _embed(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.tokens(tokens)
        if self.embedding_factor != 1:
            x = x * self.embedding_factor
        if self.position_fault == "missing":
            return x
        steps = torch.arange(tokens.shape[1])
        positions: Tensor = self.positions(torch.zeros_like(steps) if self.position_fault == "constant" else steps)
        return x + (positions.detach() if self.position_fault == "detached" else positions)

    def _mask(self, tokens: Tensor) -> Tensor:
        """Return where queries must not look: (rows, 1, time, time)."""
        padding = (tokens == PAD)[:, None, None, :]
        if self.padding_fault == "inverted":
            padding = ~padding
        elif self.padding_fault == "missing":
            padding = torch.zeros_like(padding)
        time = tokens.shape[1]
        if not self.decodes or self.causal_fault == "missing":
            return padding.expand(-1, -1, time, -1)
        later = torch.ones(time, time, dtype=torch.bool).triu(2 if self.causal_fault == "off_by_one" else 1)
        later = later.T if self.causal_fault == "inverted" else later
        return padding | later

    def _pooled(self, x: Tensor, tokens: Tensor) -> Tensor:
        if self.pool_fault == "last":
            return x[:, -1]
        if self.pool_fault == "second":
            return x[:, 1]
        if self.pool == "first":
            return x[:, 0]
        weights = torch.ones_like(tokens) if self.pool_fault == "padding" else tokens != PAD
        return (x * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)


def weights_of(model: Transformer) -> Weights:
    """Return the weights of a network under neutral names, joint projections taken apart."""
    weights: Weights = {}
    for name, value in model.state_dict().items():
        path, part = name.rsplit(".", 1)
        array = value.detach().numpy().copy()
        if name == "head.weight" and model.head.weight is model.tokens.weight:
            continue
        if path.endswith("attention.qkv") or part.startswith("in_proj"):
            owner, part = path.rsplit(".", 1)[0], part.removeprefix("in_proj_")
            for projection, third in zip(PROJECTIONS, np.split(array, 3), strict=True):
                weights[f"{owner}.{projection}.{part}"] = third
        else:
            weights[name.replace("attention.attention.out_proj", "attention.output")] = array
    return weights


def set_weights(model: Transformer, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load weights under neutral names; those that are not given stay."""
    complete = {**weights_of(model), **weights}
    state = {}
    for name in model.state_dict():
        path, part = name.rsplit(".", 1)
        if name not in complete and (path.endswith("attention.qkv") or part.startswith("in_proj")):
            owner, part = path.rsplit(".", 1)[0], part.removeprefix("in_proj_")
            array = np.concatenate([complete[f"{owner}.{projection}.{part}"] for projection in PROJECTIONS])
        else:
            neutral = name.replace("attention.attention.out_proj", "attention.output")
            array = complete["tokens.weight" if neutral not in complete else neutral]
        state[name] = torch.from_numpy(np.ascontiguousarray(array))
    model.load_state_dict(state)
