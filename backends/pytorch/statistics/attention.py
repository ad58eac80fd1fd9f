"""Statistics of attention: the entropy of its weights, and the size of its logits.

Layers do not return their weights, so those of some queries are recomputed from the inputs. This draws no random
number and records no gradient.
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
from autotrainer.backends.pytorch.ranks.shards import is_spread
from autotrainer.records.measurement import ATTENTION_COLUMNS, attention_subset
from autotrainer.records.signals import LAYER_COLUMNS, MASK_LOGIT

__all__ = ["ATTENTION_INDICES", "functional_attention", "module_attention", "score_attention"]

ATTENTION_INDICES = tuple(LAYER_COLUMNS.index(name) for name in ATTENTION_COLUMNS)
"""Indices of these columns in the layer table, in the order of the values returned."""


def functional_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    tokens: Sequence[Tensor] = (),
) -> Tensor | None:
    """Measure a call of `scaled_dot_product_attention` with these arguments.

    Args:
        query: As the function has it, like the others but ``tokens``.
        key: See there.
        value: See there.
        attn_mask: See there.
        dropout_p: See there.
        is_causal: See there.
        scale: See there.
        enable_gqa: See there.
        tokens: Indices of embeddings, two axes each, among which those of the keys may be.

    Returns:
        Shape (columns,), float32: the `ATTENTION_COLUMNS`. None if it can't be measured, as where the tensors are
        spread over processes.
    """
    if query.is_nested or key.is_nested or query.ndim != key.ndim or query.ndim < 2 or not query.numel():
        return None
    if any(is_spread(tensor) for tensor in (query, key, attn_mask)):
        return None
    shape = (*query.shape[:-1], key.shape[-2])
    mask = None if attn_mask is None else _four_axes(attn_mask.broadcast_to(shape))
    query, key = _four_axes(query), _four_axes(key)
    samples, stride = attention_subset(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    if enable_gqa:
        key = key[:samples].repeat_interleave(query.shape[1] // key.shape[1], 1)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    masks = []  # of the chosen queries alone: whole masks of long sequences may not fit in memory
    if mask is not None:
        mask = mask[:samples, :, ::stride]
        masks.append(~mask if mask.dtype is torch.bool else mask)
    if is_causal:
        positions = torch.arange(0, query.shape[2], stride, device=query.device)
        hidden = torch.arange(key.shape[2], device=query.device) > positions[:, None]
        masks.append(hidden.expand(samples, query.shape[1], -1, -1))
    later = _later(query.shape[2], key.shape[2], stride, query)
    tokens = [each[:samples] for each in tokens if each.shape == (query.shape[0], key.shape[2])]
    return _attention_stats(query[:samples, :, ::stride], key[:samples], factor, masks, later, tokens)


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
    *,
    tokens: Sequence[Tensor] = (),
) -> Tensor | None:
    """Measure a call of an attention layer with these arguments; ``tokens`` as in `functional_attention`.

    Returns:
        Shape (columns,), float32: the `ATTENTION_COLUMNS`. None if it can't be measured: reading parametrized weights
        may change them, and a subclass may compute anything.
    """
    cosine = isinstance(module, CosineAttention)
    if not (cosine or type(module).forward is nn.MultiheadAttention.forward) or is_parametrized(module):
        return None
    if query.is_nested or not query.numel() or not key.numel():
        return None
    if any(is_spread(tensor) for tensor in (query, key, *module._parameters.values())):
        return None
    if query.ndim == 2:
        query, key = query.unsqueeze(0), key.unsqueeze(0)
    elif not module.batch_first:
        query, key = query.transpose(0, 1), key.transpose(0, 1)
    total, queries, keys = len(query), query.shape[1], key.shape[1]
    samples, stride = attention_subset(total, module.num_heads, queries, keys)
    later = _later(queries, keys, stride, query)
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
    tokens = tokens if module.batch_first else [each.T for each in tokens]
    tokens = [each[:samples] for each in tokens if each.shape == (total, key.shape[2])]
    later = None if later is None else F.pad(later, (0, key.shape[2] - keys))
    return _attention_stats(query, key, 1 / math.sqrt(module.head_dim), masks, later, tokens)


def score_attention(scores: Tensor, tokens: Sequence[Tensor] = ()) -> Tensor | None:
    """Measure scores of queries and keys that a softmax over the last axis is about to take, masks included.

    Args:
        scores: Shape (samples, …, queries, keys).
        tokens: As in `functional_attention`.

    Returns:
        Shape (columns,), float32: the `ATTENTION_COLUMNS`. None if they can't be measured.
    """
    if (
        is_spread(scores)
        or scores.ndim < 3
        or scores.shape[-1] < 2
        or not scores.numel()
        or not scores.is_floating_point()
    ):
        return None
    tokens = [each for each in tokens if each.shape == (scores.shape[0], scores.shape[-1])]
    scores = _four_axes(scores)
    total = len(scores)
    samples, stride = attention_subset(*scores.shape)
    logits = scores[:samples, :, ::stride].float()
    left_out = logits <= MASK_LOGIT
    shown = _padding_shown(left_out, [each[:samples] for each in tokens if len(each) == total])
    return _reduced(logits, logits.abs().masked_fill(left_out, 0).amax(), left_out, padding_shown=shown)


def _projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries and keys as the heads receive them, shape (samples, heads, places, features of a head)."""
    if module.in_proj_weight is not None:
        query_weight, key_weight, _ = module.in_proj_weight.chunk(3)
    else:
        query_weight, key_weight = module.q_proj_weight, module.k_proj_weight
    biases = (None, None) if module.in_proj_bias is None else module.in_proj_bias.float().chunk(3)
    query = F.linear(query.float(), query_weight.float(), biases[0])
    key = F.linear(key.float(), key_weight.float(), biases[1])
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


def _later(queries: int, keys: int, stride: int, like: Tensor) -> Tensor | None:
    """Return which keys come after each of the strided queries; None unless there is a key for each query."""
    if queries != keys:
        return None
    positions = torch.arange(keys, device=like.device)
    return positions > positions[::stride, None]


def _full_precision(values: Tensor) -> AbstractContextManager[None]:
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _attention_stats(
    query: Tensor,
    key: Tensor,
    factor: float,
    masks: Sequence[Tensor],
    later: Tensor | None,
    tokens: Sequence[Tensor],
) -> Tensor:
    """Return the statistics for queries, keys and masks of rank 4. A boolean mask is true where a key is left out."""
    with _full_precision(query):
        logits = torch.matmul(query.float() * factor, key.float().transpose(-2, -1))
    if not masks:
        return _reduced(logits, logits.abs().amax(), None, later)
    left_out = torch.stack([mask <= MASK_LOGIT if mask.is_floating_point() else mask for mask in masks]).any(0)
    largest = logits.abs().masked_fill(left_out, 0).amax()
    for mask in masks:
        logits = logits + mask.float() if mask.is_floating_point() else logits
    return _reduced(logits, largest, left_out, later, _padding_shown(left_out, tokens))


def _padding_shown(left_out: Tensor, tokens: Sequence[Tensor]) -> Tensor | None:
    """Return ``padding_shown``; None where the tokens of the keys are unknown.

    Args:
        left_out: Shape (samples, heads, queries, keys).
        tokens: Of the keys, shape (samples, keys), or other indices of this shape.
    """
    hidden = left_out.all(2).all(1)
    found = []
    for each in tokens:
        lowest, highest = torch.iinfo(each.dtype).min, torch.iinfo(each.dtype).max
        first, last = (each.masked_fill(hidden, limit) for limit in (highest, lowest))
        token = first.amin()
        one = (token == last.amax()) & ((~hidden).sum(1).amax() > 1)  # a single key may be that of a class token
        others = each.masked_fill(~hidden, highest).amin() < each.masked_fill(~hidden, lowest).amax()
        found.append(one & others & ~((each == token) & hidden).any())
    return torch.stack(found).any().float() if found else None


def _reduced(
    logits: Tensor,
    largest: Tensor,
    left_out: Tensor | None,
    later: Tensor | None = None,
    padding_shown: Tensor | None = None,
) -> Tensor:
    """Reduce logits, shape (samples, heads, queries, keys), to the `ATTENTION_COLUMNS`.

    Args:
        logits: The logits, with what masks add.
        largest: The largest logit, a scalar.
        left_out: True where a key is left out for a query, of the same shape; None if none is.
        later: True where a key comes after its query, shape (queries, keys); None if that is unknown.
        padding_shown: The column of this name, a scalar; None if it is unknown.
    """
    ahead = logits.new_full((), math.nan)
    padding_shown = ahead if padding_shown is None else padding_shown
    if left_out is None:
        keys = logits.shape[-1]
        weights, entropies = _entropies(logits)
        shares = entropies / (math.log(keys) if keys > 1 else math.nan)
        heads, squares = shares.mean((0, 2)), logits.var(-1, unbiased=False).mean((0, 2))
    else:
        # Not minus infinity: the logarithm of a weight of 0 must stay finite.
        weights, entropies = _entropies(logits.masked_fill(left_out, torch.finfo(torch.float32).min))
        count = (~left_out).sum(-1).float()
        counted = count > 1
        queries = counted.sum((0, 2)).float()
        heads = torch.where(counted, entropies / count.log(), 0).sum((0, 2)) / queries
        means = logits.masked_fill(left_out, 0).sum(-1, keepdim=True) / count.unsqueeze(-1)
        variances = (logits - means).masked_fill(left_out, 0).square().sum(-1) / count
        squares = torch.where(counted, variances, 0).sum((0, 2)) / queries
    mean = heads.nanmean() if left_out is None else (heads * queries).nansum() / queries.sum()
    if later is not None:
        late = slice(max(0, 3 * len(later) // 4 - 1), None)  # a prefix may be meant to be attended to as a whole
        shares = weights[:, :, late].masked_fill(~later[late], 0).sum(-1)
        counted = torch.ones_like(shares) if left_out is None else (count[:, :, late] > 0).float()
        ahead = (shares * counted).sum() / counted.sum()
    deviations = squares.sqrt()
    extremes = heads.amin(), heads.amax(), deviations.amin(), deviations.median()
    places = heads.argmin().float(), deviations.argmin().float()
    return torch.stack((mean, largest, *extremes, *places, ahead, padding_shown))


def _entropies(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights, and their entropies in nats, shape (samples, heads, queries)."""
    logarithms = logits.log_softmax(-1)
    weights = logarithms.exp()
    return weights, -(weights * logarithms).sum(-1)
