"""Attention that functions of Keras compute, rather than a layer of Keras: fused, or as a softmax over scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Real
from typing import Any

import keras

from autotrainer.backends.keras3.engines.patching import observed, patched
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.keras_internals import backend

__all__ = ["fused_tensors", "record_attention", "softmax_tensors"]

_PROJECTIONS = 3
"""Dense layers before attention that may make its queries: those of queries, keys and values, in any order."""


@contextmanager
def record_attention(
    on_fused: Callable[..., None], on_softmax: Callable[..., None], fail: Callable[[Exception], None]
) -> Iterator[None]:
    """Pass the result and the arguments of each call of these functions of the engine on.

    Args:
        on_fused: Called after ``dot_product_attention``.
        on_softmax: Called after ``softmax``.
        fail: Called with an exception of our own code.
    """
    with ExitStack() as stack:
        for name, note in (("dot_product_attention", on_fused), ("softmax", on_softmax)):
            function = getattr(backend.nn, name, None)  # the first one since Keras 3.6
            if function is not None:
                stack.enter_context(patched(backend.nn, name, observed(function, note, fail, arguments=True)))
        yield


def fused_tensors(
    layers: Sequence[WatchedLayer],
    outputs: Mapping[int, Any],
    order: Sequence[int],
    query: Any,
    key: Any,
    **options: Any,
) -> dict[str, Any]:
    """Return what a call of ``dot_product_attention`` shows, as ``attention:<row>:<name>``; see `attention_values`.

    Args:
        layers: The layers.
        outputs: Their outputs by row.
        order: Rows in the order of calls.
        query: Shape (rows, places, heads, features).
        key: The same for keys; each of its heads may serve several of the queries'.
        **options: Further arguments; a scale that is a tensor is not followed.
    """
    scale = options.get("scale")
    if not isinstance(scale, Real | None) or len(query.shape) != 4:
        return {}
    _, places, heads, features = query.shape
    if heads != key.shape[2] and not (heads and key.shape[2] and heads % key.shape[2] == 0):
        return {}
    row = _query_row(layers, outputs, order, places, heads, heads * features if heads and features else None)
    if row is None:
        return {}
    if scale is not None and features:  # `attention_values` takes the usual scale
        query = query * (float(scale) * math.sqrt(features))
    tensors = {"query": query, "causal_key" if options.get("is_causal") else "key": key}
    tensors |= {name: options.get(name) for name in ("bias", "mask")}
    return {f"attention:{row}:{name}": t for name, t in tensors.items() if keras.ops.is_tensor(t)}


def softmax_tensors(
    layers: Sequence[WatchedLayer], outputs: Mapping[int, Any], order: Sequence[int], scores: Any, axis: Any = -1
) -> dict[str, Any]:
    """Return the scores of a softmax, if it is one of attention: of heads × queries × keys, after dense layers.

    These have as many places as there are queries, and units that the heads can share. Heads in groups that share keys
    have two axes.

    Args:
        layers: The layers.
        outputs: Their outputs by row.
        order: Rows in the order of calls.
        scores: What the softmax takes.
        axis: Its axis.
    """
    if not keras.ops.is_tensor(scores) or len(scores.shape) < 4 or axis not in (-1, len(scores.shape) - 1):
        return {}
    *groups, queries, keys = scores.shape[1:]
    if not (all(groups) and queries and keys) or min(queries, keys) < 2:
        return {}
    heads = math.prod(groups)
    row = _query_row(layers, outputs, order, queries, heads, None)
    row = row if row is None or keys == queries else _query_row(layers, outputs, order, keys, heads, None)
    return {} if row is None else {f"attention:{row}:logits": scores}


def _query_row(
    layers: Sequence[WatchedLayer],
    outputs: Mapping[int, Any],
    order: Sequence[int],
    places: int | None,
    heads: int | None,
    units: int | None,
) -> int | None:
    """Return the row of the first of the latest dense layers whose output can hold the queries."""
    found = None
    for row in order[: -_PROJECTIONS - 1 : -1]:
        output = outputs.get(row)
        if layers[row].info.kind != "dense" or output is None:
            break
        size = math.prod(output.shape[2:]) if None not in output.shape[2:] else 0
        fits = units in (None, size) or (found is None and size == 3 * units)
        if len(output.shape) > 2 and output.shape[1] == places and heads and size and not size % heads and fits:
            found = row
    return found
