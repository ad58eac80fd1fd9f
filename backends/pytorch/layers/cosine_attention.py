"""Attention with bounded logits: the queries and keys of each head are normalized to unit length."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["CosineAttention", "bounded"]


def bounded(query: Tensor, key: Tensor, limit: float, scale: float) -> tuple[Tensor, Tensor]:
    """Rescale queries and keys so that scale · query · key = limit · cos(query, key)."""
    return F.normalize(query, dim=-1) * (limit / scale), F.normalize(key, dim=-1)


class CosineAttention(nn.MultiheadAttention):
    """An attention layer with the weights and arguments of `nn.MultiheadAttention`, and logits limit · cos(q, k).

    `bound` converts an existing layer: parameters and their names stay the same.
    """

    limit: float

    @classmethod
    def bound(cls, module: nn.MultiheadAttention, limit: float) -> None:
        """Convert an attention layer to this class, in place."""
        module.__class__ = cls
        module.limit = limit  # type: ignore[assignment]

    def directions(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize projected queries and keys head by head; shape (…, heads · features of a head)."""
        query, key = (x.view(*x.shape[:-1], self.num_heads, self.head_dim) for x in (query, key))
        query, key = bounded(query, key, self.limit, 1 / math.sqrt(self.head_dim))
        return query.flatten(-2), key.flatten(-2)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute attention as `nn.MultiheadAttention.forward` does, apart from the logits."""
        transposed = self.batch_first and query.dim() == 3
        if transposed:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weights, biases = self._projections()
        query = F.linear(query, weights[0], biases[0])
        key = F.linear(key, weights[1], biases[1])
        unit_query, unit_key = self.directions(query, key)
        # Queries and keys are projected already: have PyTorch project them with the identity and without bias.
        identity = torch.eye(self.embed_dim, dtype=weights[0].dtype, device=weights[0].device)
        bias = None if biases[2] is None else torch.cat((biases[2].new_zeros(2 * self.embed_dim), biases[2]))
        output, attention_weights = F.multi_head_attention_forward(
            unit_query,
            unit_key,
            value,
            self.embed_dim,
            self.num_heads,
            None,
            bias,
            None,
            None,
            self.add_zero_attn,
            self.dropout,
            self.out_proj.weight,
            self.out_proj.bias,
            training=self.training,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            use_separate_proj_weight=True,
            q_proj_weight=identity,
            k_proj_weight=identity,
            v_proj_weight=weights[2],
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
        return (output.transpose(0, 1) if transposed else output), attention_weights

    def _projections(self) -> tuple[Any, Any]:
        """Return weights and biases (or None) of the projections of queries, keys and values."""
        if self.in_proj_weight is not None:
            weights: Any = self.in_proj_weight.chunk(3)
        else:
            weights = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
        return weights, (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
