"""Probe: does the order of tokens matter?"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.diagnostics.probes.calls import Calls, Fields, NotComparableError, replaced, take_rows
from autotrainer.diagnostics.probes.causality import LONGEST
from autotrainer.diagnostics.probes.sequences import (
    by_position,
    class_indices,
    cut,
    find_padding,
    is_tokens,
    next_token_field,
    sequence_field,
)
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED

__all__ = ["order_conflicts", "order_in_inputs", "probe_positions"]

_ROWS = 4
_SHORTEST = 5
"""Tokens of a row that is probed: with the first and the last one in place, three are left to exchange."""


def probe_positions(calls: Calls, fields: Fields) -> dict[str, float]:
    """Exchange the tokens in the middle of sequences, and compare the outputs with those of other tokens there.

    The first and the last token stay, as models may read their result there. If the output is by position, it is
    compared at these two. A model that mixes tokens and gives the same result has no knowledge of positions. That may
    be meant (a bag of words, a set), so it is also measured whether it has attention, and whether the data have an
    order: equal tokens with different targets, neighbors that are alike.

    Args:
        calls: Calls the model.
        fields: The rows.

    Returns:
        ``order_effect``, ``order_noise``, ``attention`` and, if order has no effect,
        ``order_conflicts`` and ``order_in_inputs``: see `FACTS`; nothing if tokens do not mix.
    """
    name = sequence_field(calls.model)
    if name is None:
        return {}
    sequences = calls.model.fields[name]
    padding = find_padding(calls.model, name)
    positions = sequences.shape[1]
    lengths = np.full(len(sequences), positions) if padding is None else padding.lengths
    chosen = np.flatnonzero(lengths >= _SHORTEST)[:_ROWS]
    if len(chosen) < 2:
        return {}
    fields, lengths = take_rows(calls.model.fields, chosen), lengths[chosen]
    if positions > LONGEST:
        fields, lengths = _cut_if_possible(calls, fields, positions, lengths)
    order = _effect(calls, fields, name, lengths)
    if order is None or order[0] <= order[1]:
        with calls.model.perturbed() as moved:
            order = _effect(calls, fields, name, lengths) if moved else None
    if order is None:
        return {}
    facts = {
        "order_effect": order[0],
        "order_noise": order[1],
        "attention": float(calls.model.attention),
    }
    if order[0] <= order[1]:
        facts |= {} if next_token_field(calls.model) is not None else _order_in_data(calls, name)
    return facts


def _cut_if_possible(
    calls: Calls, fields: Fields, positions: int, lengths: NDArray[Any]
) -> tuple[Fields, NDArray[Any]]:
    part = cut(fields, positions, LONGEST)
    try:
        calls(part)
    except NotComparableError:
        raise
    except Exception:  # noqa: BLE001 - a model may take sequences of one length only
        return fields, lengths
    return part, np.minimum(lengths, LONGEST)


def _effect(calls: Calls, fields: Fields, name: str, lengths: NDArray[Any]) -> tuple[float, float] | None:
    """Return the effect of another order and its rounding error, each ÷ that of other tokens; None if that is 0."""
    sequences = fields[name]
    permuted, other = sequences.copy(), sequences.copy()
    for row, length in enumerate(lengths):
        middle = sequences[row, 1 : length - 1]
        permuted[row, 1 : length - 1] = _reordered(middle)
        source = sequences[(row + 1) % len(sequences), 1 : lengths[(row + 1) % len(sequences)] - 1]
        other[row, 1 : length - 1] = np.resize(source, middle.shape)
    if np.array_equal(permuted, sequences):
        return None
    before = calls(fields)
    ends = _ends(calls, before, sequences.shape[:2], lengths)
    by_order, by_tokens = (
        float(np.abs(_ends(calls, calls(replaced(fields, name, values)), sequences.shape[:2], lengths) - ends).max())
        for values in (permuted, other)
    )
    rounding = calls.rounding(before)
    return None if by_tokens <= rounding else (by_order / by_tokens, rounding / by_tokens)


def _reordered(middle: NDArray[Any]) -> NDArray[Any]:
    """Return the entries in an order in which most of them move; deterministic."""
    return middle[np.random.default_rng(0).permutation(len(middle))] if len(middle) > 3 else middle[::-1]


def _ends(calls: Calls, output: Floats, shape: tuple[int, ...], lengths: NDArray[Any]) -> Floats:
    """Return the outputs of the first and the last token, or the whole output if it is not by position."""
    positions = by_position(output, *shape, values_last=calls.model.values_last)
    if positions is None:
        if len(output) != shape[0]:
            raise NotComparableError
        return output
    return np.stack([positions[:, 0], positions[np.arange(shape[0]), lengths - 1]])


def _order_in_data(calls: Calls, name: str) -> dict[str, float]:
    model = calls.model
    sequences = model.fields[name]
    facts: dict[str, float] = {}
    if is_tokens(sequences, embeds=model.embeds) and model.targets is not None:
        conflicts = order_conflicts(sequences, model.targets)
        if not math.isnan(conflicts):
            facts["order_conflicts"] = conflicts
    elif sequences.ndim == 3:
        facts["order_in_inputs"] = order_in_inputs(sequences)
    return facts


def order_conflicts(tokens: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the share of targets that a model without knowledge of positions can't fit, whatever its weights.

    Such a model has one output for equal tokens of a row, and, if it has one output for each row, one for rows with the
    same tokens in any order. So at most the most common target of each such group can be fit. Equal rows with different
    targets are no conflict of order, and count once.

    Args:
        tokens: Shape (rows, positions).
        targets: Class indices, (rows,) or one for each position, as `class_indices` takes them; -100 is masked.

    Returns:
        In [0, 1]; NaN if the targets are no classes.
    """
    rows, positions = tokens.shape
    by_token = class_indices(targets, positions, rows) if targets.ndim > 1 or targets.size != rows else None
    groups: dict[Any, Counter[Any]] = defaultdict(Counter)
    if by_token is not None:
        for row in range(rows):
            for token, target in zip(tokens[row].tolist(), by_token[row].tolist(), strict=True):
                if target != MASKED:
                    groups[row, token][target] += 1
    elif (targets.ndim <= 2 and targets.size == rows) or (targets.ndim == 2 and len(targets) == rows):
        labels = targets.reshape(rows, -1)
        if not (labels == np.floor(labels)).all() or (labels.shape[1] > 1 and not (labels.sum(axis=1) == 1).all()):
            return math.nan
        labels = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
        distinct = {tuple(each): label for each, label in zip(tokens.tolist(), labels.tolist(), strict=True)}
        for each, label in distinct.items():
            groups[tuple(sorted(each))][label] += 1
    else:
        return math.nan
    total = sum(counts.total() for counts in groups.values())
    return 1 - sum(max(counts.values()) for counts in groups.values()) / total if total else math.nan


def order_in_inputs(sequences: NDArray[Any]) -> float:
    """Return a normal quantile: below -5, neighboring time steps are clearly more alike than others.

    The ratio of von Neumann, the mean square of differences between neighbors ÷ the variance, is 2 in random order,
    with variance about 4 ÷ length (von Neumann, Annals of Mathematical Statistics, 1941). Features of a row are
    averaged over, and rows are independent.

    Args:
        sequences: Shape (rows, time, features).
    """
    values = sequences.astype(np.float64)
    variance = values.var(axis=1).mean(axis=1)
    steps = (np.diff(values, axis=1) ** 2).mean(axis=(1, 2))
    use = variance > 0
    if not use.any():
        return 0.0
    ratio = steps[use] / variance[use]
    return float((ratio.mean() - 2) / math.sqrt(4 / sequences.shape[1] / use.sum()))
