"""Looks at attention: how evenly its weights are spread, and how large their logits are.

Layers do not return their weights, so those of some queries are worked out once more from what went in. Nothing of it
is random, and no gradient is recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized

from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.records.measurement import attention_subset
from autotrainer.records.signals import LAYER_COLUMNS, MASK_LOGIT

__all__ = ["ATTENTION_COLUMNS", "functional_attention", "module_attention"]

ATTENTION_COLUMNS = tuple(LAYER_COLUMNS.index(name) for name in ("attention_entropy", "attention_max_logit"))
"""Columns of the layer table that are filled here, in the order of the numbers returned."""


def functional_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """Look at a call of `scaled_dot_product_attention`, whose arguments these are.

    Returns:
        Shape (2,), float32: the `ATTENTION_COLUMNS`. None where it can't be looked at.
    """
    if query.is_nested or key.is_nested or query.ndim != key.ndim or query.ndim < 2 or not query.numel():
        return None
    shape = (*query.shape[:-1], key.shape[-2])
    mask = None if attn_mask is None else _four_axes(attn_mask.broadcast_to(shape))
    query, key = _four_axes(query), _four_axes(key)
    samples, stride = attention_subset(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    if enable_gqa:
        key = key[:samples].repeat_interleave(query.shape[1] // key.shape[1], 1)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    masks = []  # of the chosen queries alone: whole ones of long sequences take more memory than there may be
    if mask is not None:
        mask = mask[:samples, :, ::stride]
        masks.append(~mask if mask.dtype is torch.bool else mask)
    if is_causal:
        places = torch.arange(0, query.shape[2], stride, device=query.device)
        later = torch.arange(key.shape[2], device=query.device) > places[:, None]
        masks.append(later.expand(samples, query.shape[1], -1, -1))
    return _numbers(query[:samples, :, ::stride], key[:samples], factor, masks)


def module_attention(
    module: nn.MultiheadAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Tensor | None:
    """Look at a call of an attention layer, whose arguments these are.

    Returns:
        Shape (2,), float32: the `ATTENTION_COLUMNS`. None where it can't be looked at: reading weights that are
        parametrized may change them, and a subclass may do anything.
    """
    bound = isinstance(module, CosineAttention)
    if not (bound or type(module).forward is nn.MultiheadAttention.forward) or is_parametrized(module):
        return None
    if query.is_nested or not query.numel() or not key.numel():
        return None
    if query.ndim == 2:
        query, key = query.unsqueeze(0), key.unsqueeze(0)
    elif not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    total, queries, keys = len(query), query.shape[1], key.shape[1]
    samples, stride = attention_subset(total, module.num_heads, queries, keys)
    with _full_precision(query):
        query, key = _projected(module, query[:samples, ::stride], key[:samples])
    masks = []
    if attn_mask is not None:
        masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.view(total, -1, queries, keys))
    if key_padding_mask is not None:
        masks.append(key_padding_mask.reshape(total, 1, 1, keys))
    shape = (total, module.num_heads, queries, keys)
    masks = [mask.broadcast_to(shape)[:samples, :, ::stride] for mask in masks]
    masks = [F.pad(mask, (0, key.shape[2] - keys)) for mask in masks]
    return _numbers(query, key, 1 / math.sqrt(module.head_dim), masks)


def _projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and keys as the heads get them, shape (samples, heads, places, features of a head)."""
    if module.in_proj_weight is not None:
        of_query, of_key, _ = module.in_proj_weight.chunk(3)
    else:
        of_query, of_key = module.q_proj_weight, module.k_proj_weight
    biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.float().chunk(3)
    query = F.linear(query.float(), of_query.float(), biases[0])
    key = F.linear(key.float(), of_key.float(), biases[1])
    if isinstance(module, CosineAttention):
        query, key = module.directions(query, key)
    if module.bias_k is not None:
        key = torch.cat((key, module.bias_k.float().expand(len(key), 1, -1)), 1)
    if module.add_zero_attn:
        key = F.pad(key, (0, 0, 0, 1))
    heads = module.num_heads, module.head_dim
    return query.view(*query.shape[:2], *heads).transpose(1, 2), key.view(*key.shape[:2], *heads).transpose(1, 2)


def _four_axes(values: Tensor) -> Tensor:
    """Return a view of shape (samples, heads, …, …)."""
    if values.ndim == 2:
        return values[None, None]
    return values.unsqueeze(1) if values.ndim == 3 else values.flatten(0, -4)


def _full_precision(values: Tensor) -> AbstractContextManager[None]:
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _numbers(query: Tensor, key: Tensor, factor: float, masks: Sequence[Tensor]) -> Tensor:
    """Reduce queries, keys and masks, all of rank 4, to the numbers. A boolean mask is true where a key is left out."""
    with _full_precision(query):
        logits = torch.matmul(query.float() * factor, key.float().transpose(-2, -1))
    if not masks:
        keys = logits.shape[-1]
        mean = _entropies(logits).mean() / (math.log(keys) if keys > 1 else math.nan)
        return torch.stack((mean, logits.abs().amax()))
    left_out = torch.stack([mask <= MASK_LOGIT if mask.is_floating_point() else mask for mask in masks]).any(0)
    largest = logits.abs().masked_fill(left_out, 0).amax()
    for mask in masks:
        logits = logits + mask.float() if mask.is_floating_point() else logits
    # Not to minus infinity: of a weight of 0, its logarithm must stay a number.
    entropies = _entropies(logits.masked_fill(left_out, torch.finfo(torch.float32).min))
    count = (~left_out).sum(-1).float()
    known = count > 1
    return torch.stack((torch.where(known, entropies / count.log(), 0).sum() / known.sum(), largest))


def _entropies(logits: Tensor) -> Tensor:
    """Return the entropies of the weights, in nats, shape (samples, heads, queries)."""
    logarithms = logits.log_softmax(-1)
    return -(logarithms.exp() * logarithms).sum(-1)
