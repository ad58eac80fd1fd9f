"""Probe: does padding change the output?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.diagnostics.probes.calls import Calls, Fields, NotComparableError, replaced, row_wise, take_rows
from autotrainer.diagnostics.probes.causality import LONGEST
from autotrainer.diagnostics.probes.sequences import Padding, by_position, cut, find_padding, sequence_field
from autotrainer.records.signals import Floats

__all__ = ["probe_padding"]

_ROWS = 4
_SHORTEST = 2
"""Tokens of a row that is probed, and positions of its padding."""


def probe_padding(calls: Calls, fields: Fields) -> dict[str, float]:
    """Change the padding at the end of sequences, and compare the outputs of the tokens before it.

    If a field says which tokens are padding, other tokens are put in their place, and the field stays as it is.
    Otherwise padding is taken away where all rows have it. The output at padding itself does not count.

    Args:
        calls: Calls the model.
        fields: The rows.

    Returns:
        ``padding_effect``, ``padding_noise``, ``padding_masked``, ``padding_declared`` and ``attention``: see `FACTS`;
        nothing if no padding is known.
    """
    name = sequence_field(calls.model)
    padding = None if name is None else find_padding(calls.model, name)
    if name is None or padding is None:
        return {}
    positions = fields[name].shape[1]
    long = (padding.lengths >= _SHORTEST) & (padding.lengths <= positions - _SHORTEST)
    chosen = np.flatnonzero(long)[np.argsort(padding.lengths[long], kind="stable")][-_ROWS:]
    if not len(chosen):
        return {}
    fields = take_rows(calls.model.fields, chosen)
    lengths = padding.lengths[chosen]
    if positions > LONGEST and int(lengths.max()) + _SHORTEST <= LONGEST:
        part = cut(fields, positions, LONGEST)
        if _runs(calls, part):
            fields, positions = part, LONGEST
    changes = _by_content if padding.mask is not None else _by_length
    compared = changes(calls, fields, name, padding, lengths)
    if compared is None:
        return {}
    effect, noise = compared
    return {
        "padding_effect": effect,
        "padding_noise": noise,
        "padding_masked": float(padding.mask is not None),
        "padding_declared": float(padding.declared),
        "attention": float(calls.model.attention),
    }


def _runs(calls: Calls, fields: Fields) -> bool:
    try:
        calls(fields)
    except NotComparableError:
        raise
    except Exception:  # noqa: BLE001 - a model may take sequences of one length only
        return False
    return True


def _by_content(
    calls: Calls, fields: Fields, name: str, padding: Padding, lengths: NDArray[np.int64]
) -> tuple[float, float] | None:
    """Return the effect of other tokens in place of padding, and its rounding error, ÷ the effect of real tokens."""
    tokens = fields[name]
    is_padding = np.arange(tokens.shape[1]) >= lengths[:, None]
    real = tokens[~is_padding]
    values = tokens.copy()
    values[is_padding] = np.resize(real[::-1], int(is_padding.sum()))
    before, after = calls(fields), calls(replaced(fields, name, values))
    if before.shape != after.shape:
        raise NotComparableError
    return _relative(calls, fields, name, lengths, before, _change(calls, before, after, tokens.shape, lengths))


def _by_length(
    calls: Calls, fields: Fields, name: str, padding: Padding, lengths: NDArray[np.int64]
) -> tuple[float, float] | None:
    """Return the effect of padding that is taken away, and its rounding error, ÷ the effect of real tokens."""
    rows, positions = fields[name].shape
    shorter = int(lengths.max())
    try:
        short = calls(cut(fields, positions, shorter))
    except NotComparableError:
        raise
    except Exception:  # noqa: BLE001 - a model may take sequences of one length only
        return None
    before = calls(fields)
    last = calls.model.values_last
    long_outputs = by_position(before, rows, positions, values_last=last)
    short_outputs = by_position(short, rows, shorter, values_last=last)
    if long_outputs is not None and short_outputs is not None:
        real = np.arange(shorter) < lengths[:, None]
        change = float(np.abs(long_outputs[:, :shorter] - short_outputs)[real].max(initial=0.0))
    elif before.shape == short.shape and len(before) == rows:
        change = float(np.abs(before - short).max())
    else:
        return None
    return _relative(calls, fields, name, lengths, before, change)


def _change(calls: Calls, before: Floats, after: Floats, shape: tuple[int, ...], lengths: NDArray[np.int64]) -> float:
    """Return the largest change of an output, by position only where it belongs to a token."""
    difference = by_position(np.abs(after - before), *shape, values_last=calls.model.values_last)
    if difference is None:
        return float(np.abs(after - before).max())
    return float(difference[np.arange(shape[1]) < lengths[:, None]].max(initial=0.0))


def _relative(
    calls: Calls, fields: Fields, name: str, lengths: NDArray[np.int64], before: Floats, change: float
) -> tuple[float, float] | None:
    """Return a change and the rounding error ÷ the effect of another token in place of the first one of each row."""
    values: NDArray[Any] = fields[name].copy()
    candidates = np.unique(values[np.arange(values.shape[1]) < lengths[:, None]])
    values[:, 0] = np.where(values[:, 0] == candidates[0], candidates[-1], candidates[0])
    after = calls(replaced(fields, name, values))
    if after.shape != before.shape:
        raise NotComparableError
    rounding = calls.rounding(before)
    own = _change(calls, before, after, fields[name].shape, lengths)
    if own <= rounding or not row_wise(fields):
        return None
    return change / own, rounding / own
