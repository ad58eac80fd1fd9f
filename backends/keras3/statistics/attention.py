"""Looks at attention: how evenly its weights are spread, and how large their logits are.

Layers do not give out their weights, so those of some queries are worked out once more from what went in, outside of
the training step.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.backends.keras3.layers.inserted import CosineAttention, CosineGroupedAttention
from autotrainer.backends.keras3.runtime.tensors import finite_or_inf, to_array
from autotrainer.records.measurement import attention_subset
from autotrainer.records.signals import MASK_LOGIT

__all__ = ["attention_tensors", "attention_values", "noted_method"]


def noted_method(layer: Any) -> str | None:
    """Return the name of the method of an attention layer that is given queries and keys; None for other layers."""
    if isinstance(layer, CosineAttention | CosineGroupedAttention):
        return "_attend"
    if isinstance(layer, keras.layers.MultiHeadAttention | keras.layers.GroupQueryAttention):
        return "_compute_attention"
    return "_apply_scores" if isinstance(layer, keras.layers.Attention) else None


def attention_tensors(known: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return what a call of such a method shows.

    Args:
        known: Signature of the method.
        args: Arguments of the call.
        kwargs: Further ones.

    Returns:
        ``query`` and ``key`` (``causal_key`` where no query may look ahead), shape (samples, places, heads, features),
        or ``scores``, shape (samples, queries, keys); and ``mask``, true where a key counts.
    """
    given = known.bind(*args, **kwargs).arguments
    key = "causal_key" if given.get("use_causal_mask") else "key"
    names = {"query": "query", "key": key, "scores": "scores", "attention_mask": "mask", "scores_mask": "mask"}
    return {name: given[each] for each, name in names.items() if keras.ops.is_tensor(given.get(each))}


def attention_values(row: int, seen: Mapping[str, Any]) -> dict[str, float]:
    """Return the `ATTENTION_COLUMNS` of a layer, by name; empty where nothing was seen of it.

    Args:
        row: Its row.
        seen: ``attention:<row>:<name>`` with the names of `attention_tensors`; ``bias``, which is added to the logits;
            or ``logits``, masks included, shape (samples, heads, queries, keys), where heads may have several axes; and
            ``lookup:<row>``, the indices of embeddings.
    """
    what = f"attention:{row}:"
    names = ("scores", "query", "key", "causal_key", "mask", "bias", "logits")
    found: list[Any] = [seen.get(what + name) for name in names]
    scores, query, key, ahead, mask, bias, masked = found
    if masked is not None and math.prod(masked.shape):
        samples, *groups, queries, keys = masked.shape
        few, stride = attention_subset(samples, math.prod(groups), queries, keys)
        logits = to_array(masked[:few, ..., ::stride, :]).astype(np.float32)
        logits = logits.reshape(few, -1, *logits.shape[-2:])
        tokens = _tokens(seen, samples, keys, few)
        return _reduced(logits, logits > MASK_LOGIT, _later(queries, keys, stride), tokens)
    key = ahead if key is None else key
    if scores is not None and len(scores.shape) == 3:
        (samples, queries, keys), heads = scores.shape, 1
    elif query is not None and key is not None and len(query.shape) == len(key.shape) == 4:
        (samples, queries, heads, _), keys = query.shape, key.shape[1]
    else:
        return {}
    if not samples * queries * heads * keys:
        return {}
    few, stride = attention_subset(samples, heads, queries, keys)
    if scores is not None:
        logits = to_array(scores[:few, ::stride])[:, None].astype(np.float32)
    else:
        logits = _logits(to_array(query[:few, ::stride]), to_array(key[:few]))
    counts = np.ones((1, 1, queries, keys), bool) if ahead is None else np.tri(queries, keys, dtype=bool)
    if mask is not None:
        told = to_array(mask).astype(bool)
        told = told[:, None] if told.ndim == 2 else told  # of keys alone
        counts = counts & (told if told.ndim == 4 else told[:, None])
    counts = np.broadcast_to(counts, (samples, heads, queries, keys))[:few, :, ::stride]
    if bias is not None:
        added = np.broadcast_to(to_array(bias), (samples, heads, queries, keys))[:few, :, ::stride]
        logits, counts = logits + added.astype(np.float32), counts & (added > MASK_LOGIT)
    return _reduced(logits, counts, _later(queries, keys, stride), _tokens(seen, samples, keys, few))


def _tokens(seen: Mapping[str, Any], samples: int, keys: int, few: int) -> list[NDArray[Any]]:
    """Return the indices of embeddings that may be those of the keys, shape (few, keys)."""
    found = [value for name, value in seen.items() if name.startswith("lookup:")]
    return [to_array(value[:few]) for value in found if tuple(value.shape) == (samples, keys)]


def _padding_shown(counts: NDArray[np.bool_], tokens: Sequence[NDArray[Any]]) -> bool:
    """Return whether all keys that count are of one token, and the others are not.

    Args:
        counts: Shape (samples, heads, queries, keys).
        tokens: Of the keys, shape (samples, keys), or other indices of this shape.
    """
    shown = counts.any(axis=(1, 2))
    if shown.sum(axis=1).max() < 2:  # a single key may be that of a class token
        return False
    pairs = [(np.unique(each[shown]), np.unique(each[~shown])) for each in tokens]
    return any(len(seen) == 1 and len(hidden) > 1 and seen[0] not in hidden for seen, hidden in pairs)


def _later(queries: int, keys: int, stride: int) -> NDArray[np.bool_] | None:
    """Return which keys come after each of the strided queries; None unless there is a key for each query."""
    return np.arange(keys) > np.arange(0, queries, stride)[:, None] if queries == keys else None


def _logits(query: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Return the logits of queries and keys, shape (samples, places, heads, features), as (samples, heads, …, …).

    Where keys have fewer heads, each serves a group of successive heads of the queries.
    """
    key = np.repeat(key, query.shape[2] // key.shape[2], axis=2)
    factor = np.float32(1 / math.sqrt(query.shape[-1]))
    logits: NDArray[Any] = np.matmul(query.transpose(0, 2, 1, 3) * factor, key.transpose(0, 2, 3, 1))
    return logits


def _reduced(
    logits: NDArray[Any],
    counts: NDArray[np.bool_],
    later: NDArray[np.bool_] | None = None,
    tokens: Sequence[NDArray[Any]] = (),
) -> dict[str, float]:
    """Reduce logits to the numbers.

    Args:
        logits: Shape (samples, heads, queries, keys).
        counts: True where a key counts, of the same shape.
        later: True where a key comes after its query, shape (queries, keys); None if that is unknown.
        tokens: Those of the keys, as far as they are known, shape (samples, keys).
    """
    keys = counts.sum(axis=-1)
    size = np.abs(logits)
    if not counts.all():
        logits, size = np.where(counts, logits, -np.inf), np.where(counts, size, 0)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    weights = np.exp(shifted)
    totals = weights.sum(axis=-1)
    products = np.where(weights > 0, weights * shifted, 0)
    entropy = np.log(totals) - products.sum(axis=-1) / totals  # -Σ p log p of p = weights / total
    values = {"attention_max_logit": finite_or_inf(size.max())}
    if tokens and not counts.all():
        values["padding_shown"] = float(_padding_shown(counts, tokens))
    if later is not None:  # a prefix may be meant to be attended to as a whole
        some = (keys > 0) & (np.arange(len(later)) >= 3 * len(later) // 4 - 1)
        ahead = np.where(later & counts, weights, 0).sum(axis=-1)[some] / totals[some]
        values["attention_ahead"] = finite_or_inf(ahead.mean()) if ahead.size else math.nan
    counted = keys > 1
    queries = counted.sum(axis=(0, 2))
    if not queries.all():
        return values
    shares = np.where(counted, entropy / np.log(keys), 0)
    values["attention_entropy"] = finite_or_inf(np.clip(shares.sum() / queries.sum(), 0, 1))
    means = np.where(counts, logits, 0).sum(axis=-1) / keys
    squares = np.where(counts, np.square(logits - means[..., None]), 0).sum(axis=-1) / keys
    deviations = np.sqrt(np.where(counted, squares, 0).sum(axis=(0, 2)) / queries)
    heads = np.clip(shares.sum(axis=(0, 2)) / queries, 0, 1)
    values |= {
        "head_entropy_min": finite_or_inf(heads.min()),
        "head_entropy_max": finite_or_inf(heads.max()),
        "head_logit_std_min": finite_or_inf(deviations.min()),
        "head_logit_std": finite_or_inf(np.sort(deviations)[(len(deviations) - 1) // 2]),
        "narrowest_head": float(heads.argmin()),
        "widest_head": float(deviations.argmin()),
    }
    return values
