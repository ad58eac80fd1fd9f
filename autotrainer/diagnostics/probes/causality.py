"""Probe: does a later token change an earlier output?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import ProbedModel
from autotrainer.diagnostics.probes.calls import Calls, Fields, NotComparableError, replaced, row_wise, take_rows
from autotrainer.diagnostics.probes.sequences import (
    by_position,
    class_indices,
    cut,
    is_tokens,
    next_token_field,
    sequence_field,
)
from autotrainer.records.signals import Floats
from autotrainer.records.task import MASKED

__all__ = ["LONGEST", "probe_causality", "shortened"]

LONGEST = 64
"""Positions to which sequences are cut, if the model takes shorter ones."""
_ROWS = 4

_CLOSER = 0.1
"""Distance of the loss to the cross-entropy with each token itself ÷ that with the next one, at most: 2 % by chance."""


def probe_causality(calls: Calls, fields: Fields) -> dict[str, float]:
    """Replace the last tokens of sequences, and compare the outputs before them; then the first, and the last output.

    Only for models that predict the next token: their targets are the inputs of the next position, or the model
    returns a loss that is the cross-entropy with its own next inputs. They are trained on all positions at once, so an
    output that depends on later tokens sees its own target. Any other model may look ahead, and so may positions whose
    targets do not count: the prefix of a prefix language model (Raffel et al., JMLR 2020, section 3.2).

    Args:
        calls: Calls the model.
        fields: The rows.

    Returns:
        ``later_effect``, ``later_noise``, ``later_reach``, ``earlier_effect``, ``earlier_noise``: see `FACTS`; for
        other models ``repeats_input``, if their targets are their inputs but they do not look ahead, or nothing.
    """
    following = next_token_field(calls.model)
    name = following or _shifted_inside(calls, fields)
    if name is None:
        return _repeats_input(calls, fields)
    fields = take_rows(fields, np.arange(min(_ROWS, len(fields[name]))))
    judged = _judged(calls, name, len(fields[name]), shifted_inside=following is None)
    fields, before = shortened(calls, fields, name)
    judged = judged[:, : before.shape[1]]
    facts = {"predicts_next": 1.0, **_compare(calls, fields, name, before, judged)}
    if facts["later_noise"] >= 1 or facts["earlier_effect"] <= facts["earlier_noise"]:
        with calls.model.perturbed() as moved:
            other = _compare(calls, fields, name, shortened(calls, fields, name)[1], judged) if moved else {}
        if facts["later_noise"] >= 1:  # the outputs do not depend on the tokens at all, as a weight is still zero
            facts |= other
        elif other and other["earlier_effect"] > other["earlier_noise"]:
            facts |= {key: other[key] for key in ("earlier_effect", "earlier_noise")}
        elif not other:
            del facts["earlier_effect"]
    return facts


def shortened(calls: Calls, fields: Fields, name: str) -> tuple[Fields, Floats]:
    """Return fields with sequences of a length that the model takes, and its output by position.

    Raises:
        NotComparableError: If the output has no axis of positions.
    """
    rows, positions = fields[name].shape[:2]
    for length in (*((LONGEST, LONGEST - 1) if positions > LONGEST else ()), positions, positions - 1):
        part = cut(fields, positions, length)
        try:
            output = by_position(calls(part), rows, length, values_last=calls.model.values_last)
        except NotComparableError:
            raise
        except Exception:  # noqa: BLE001 - a model may take sequences of one length only
            output = None
        if output is not None:
            return part, output
    raise NotComparableError


def _judged(calls: Calls, name: str, rows: int, *, shifted_inside: bool) -> NDArray[np.bool_]:
    """Return at which positions of the first rows the targets count, shape (rows, positions)."""
    array, targets = calls.model.fields[name], calls.model.targets
    indices = None
    if targets is not None and array.ndim == 2:
        indices = class_indices(targets, array.shape[1], len(array))
    if indices is None:
        return np.ones((rows, array.shape[1]), bool)
    counts: NDArray[np.bool_] = indices != MASKED
    if shifted_inside:  # the model compares each output with the next target
        counts = np.roll(counts, -1, axis=1)
        counts[:, -1] = False
    return counts[:rows]


def _compare(calls: Calls, fields: Fields, name: str, before: Floats, judged: NDArray[np.bool_]) -> dict[str, float]:
    """Return the effects of later and of earlier tokens, ÷ the change of the outputs of the tokens themselves.

    Args:
        calls: Calls the model.
        fields: The rows.
        name: The field of the tokens.
        before: The output, shape (rows, positions, values).
        judged: At which positions the targets count: only there, later tokens must not matter.
    """
    rows, positions = fields[name].shape[:2]
    other = _other(fields[name])
    rounding = calls.rounding(before)

    def change(part: slice) -> tuple[Floats, Floats]:
        values = fields[name].copy()
        values[:, part] = other[:, part]
        output = calls(replaced(fields, name, values))
        after = by_position(output, rows, positions, values_last=calls.model.values_last)
        if after is None or after.shape != before.shape:
            raise NotComparableError
        changes: Floats = np.abs(after - before).max(axis=2)
        return changes.max(axis=0), np.where(judged, changes, 0.0).max(axis=0)

    later = steps = 0.0
    own = rounding
    for start in {positions // 2, positions // 2 + 1, positions - 1}:  # also if attention works in blocks
        changes, of_judged = change(slice(start, None))
        own = max(own, float(changes[start:].max()))
        later = max(later, float(of_judged[:start].max()))
        if start == positions - 1:
            steps = float((of_judged[:start] > rounding).sum())
    earlier = float(change(slice(0, positions - 1))[0][-1])
    unit, noise = own or 1.0, (rounding / own if own > rounding else 1.0)
    return {
        "later_effect": later / unit,
        "later_noise": noise,
        "later_reach": steps,
        "earlier_effect": earlier / unit,
        "earlier_noise": noise,
    }


def _other(array: NDArray[Any]) -> NDArray[Any]:
    """Return values that differ at every position, as far as the rows have others: of another row or position."""
    result = np.roll(array, 1, axis=0)
    flat = array.reshape(-1, *array.shape[2:])
    for shift in range(1, min(len(flat), 64)):
        same = (result == array).reshape(*array.shape[:2], -1).all(axis=2)
        if not same.any():
            break
        result[same] = np.roll(flat, shift, axis=0).reshape(array.shape)[same]
    return result


def _shifted_inside(calls: Calls, fields: Fields) -> str | None:
    """Return the tokens of a model that shifts its targets itself, as its loss shows; None if it does not.

    Its targets are its inputs, apart from masked ones, and the loss that it returns is the cross-entropy of the outputs
    with the next tokens, rather than with the tokens themselves.
    """
    name, targets = _own_targets(calls.model, fields)
    last = calls.model.values_last
    logits = None if name is None else by_position(calls(fields), *fields[name].shape[:2], values_last=last)
    own = calls.model.loss
    if logits is None or not np.isfinite(own):
        return None
    shifted, plain = _cross_entropy(logits[:, :-1], targets[:, 1:]), _cross_entropy(logits, targets)
    return name if abs(shifted - own) < min(abs(plain - own), 1e-3 * max(1.0, abs(own))) else None


def _repeats_input(calls: Calls, fields: Fields) -> dict[str, float]:
    """Return that each target is the token at its own position, if no output depends on later tokens.

    A model that sees all tokens may have to restore its input, through a bottleneck; one that looks back alone has the
    answer before it. A loss that the model returns must be the cross-entropy with these targets, far rather than with
    the next ones, which are as likely at the start and to which the model may add other terms.
    """
    name, targets = _own_targets(calls.model, fields)
    if name is None:
        return {}
    fields = take_rows(fields, np.arange(min(_ROWS, len(fields[name]))))
    part, before = shortened(calls, fields, name)
    own, targets = calls.model.loss, targets[: len(before), : before.shape[1]]
    if np.isfinite(own):
        shifted, plain = _cross_entropy(before[:, :-1], targets[:, 1:]), _cross_entropy(before, targets)
        if not abs(plain - own) <= min(1e-3 * abs(own), _CLOSER * abs(shifted - own)):
            return {}
    effects = _compare(calls, part, name, before, np.ones(before.shape[:2], bool))
    looks_ahead = effects["later_effect"] > effects["later_noise"] or effects["later_noise"] >= 1
    return {} if looks_ahead else {"repeats_input": 1.0}


def _own_targets(model: ProbedModel, fields: Fields) -> tuple[str | None, NDArray[Any]]:
    """Return the field whose tokens are the targets at the same positions, where they count, and the targets.

    A model of several sequences, as an encoder and a decoder, has its targets in one of them at most.
    """
    first, arrays = sequence_field(model), row_wise(model.fields)
    others = [name for name, array in arrays.items() if name != first and is_tokens(array, embeds=model.embeds)]
    for name in (first, *others):
        if name is None or model.targets is None or fields[name].ndim != 2:
            continue
        rows, positions = fields[name].shape
        targets = class_indices(model.targets, positions, len(model.fields[name]))
        if targets is None or targets.dtype.kind not in "iu":
            continue
        targets = targets[:rows]
        counts = targets != MASKED
        if counts.sum() >= positions and (targets == fields[name])[counts].all():
            return name, targets
    return None, np.empty(0)


def _cross_entropy(logits: Floats, targets: NDArray[Any]) -> float:
    counts = targets != MASKED
    shifted = logits - logits.max(axis=2, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=2, keepdims=True))
    classes = np.clip(np.where(counts, targets, 0), 0, logits.shape[2] - 1)
    return float(-np.take_along_axis(log_probabilities, classes[:, :, None], 2)[:, :, 0][counts].mean())
