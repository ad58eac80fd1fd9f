"""How many of the targets of sequences are padding."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotrainer.monitoring.loss_values import entropies
from autotrainer.records.signals import Observation
from autotrainer.records.task import MASKED, TaskContext

__all__ = ["padded_share", "without_padding"]

_ROWS = 4
"""Fewest sequences whose ends show padding."""
_LENGTHS = 3
"""Fewest different numbers of tokens in them: those of a fixed layout are all the same."""
_SHORTEST = 4
"""Time steps of the shortest sequences."""
_CLASSES = 10
"""Fewest classes from which targets alone show padding: a class that only the ends of sequences have. Of few classes,
such as the stages of a process, the last one looks the same."""


def padded_share(labels: NDArray[Any], inputs: NDArray[Any] | None) -> float:
    """Return the share of the counted targets of sequences that belong to padding.

    Padding is a run of one value at the same end of sequences of unequal length that stands nowhere else. Padding of
    the inputs counts if all its targets are the same, whatever other targets are; if the inputs have other positions,
    that of the targets themselves does. The first target of each run is left out: it may stand for the end.

    Args:
        labels: Class indices, shape (sequences, steps) or (steps, sequences); `MASKED` where they do not count.
        inputs: First rows of the inputs, shape (rows, steps) or (rows, steps, features), or None.

    Returns:
        The share in [0, 1]; 0 if there is no padding, NaN if the targets are not those of sequences.
    """
    padding = _padding_of(labels, inputs)
    if padding is None:
        return math.nan
    return int(padding.sum()) / max(int((labels[: len(padding)] != MASKED).sum()), 1)


def without_padding(observation: Observation, context: TaskContext) -> Observation:
    """Return an observation whose targets are masked where they are padding that a custom loss leaves out.

    That is so if a cross-entropy of the other targets is closer to the loss than one of all.
    """
    labels, targets, outputs = observation.labels, observation.targets, observation.outputs
    if not context.loss.own or labels is None or targets is None or outputs is None or not targets.size:
        return observation
    padding = _padding_of(labels, observation.inputs if observation.tokens is None else observation.tokens)
    shape = targets.shape[:-1] if targets.ndim == 3 and targets.shape[2] == 1 else targets.shape
    if padding is None or not padding.any() or shape[1:] not in ((), padding.shape[1:]):
        return observation
    padded, whole = padding if len(shape) > 1 else padding.ravel(), targets.reshape(shape)
    rows = min(len(padded), len(targets))
    if not padded[:rows].any():
        return observation
    rest = whole.astype(np.int64)
    rest[:rows][padded[:rows] | (_beside(padded[:rows]) & (whole[:rows] == whole[:rows][padded[:rows]][0]))] = MASKED
    loss = observation.scalars.get("data_loss", observation.loss)
    values = np.asarray(outputs, np.float64)
    entropy = [entropies(values, targets, each, loss).get("cross_entropy", math.nan) for each in (whole, rest)]
    if not abs(entropy[1] - loss) <= abs(entropy[0] - loss):
        return observation
    return replace(observation, targets=rest.reshape(targets.shape))


def _beside(padding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the positions before and after padding, along the last axis."""
    around = np.pad(padding, [(0, 0)] * (padding.ndim - 1) + [(1, 1)])
    return np.asarray(around[..., 2:] | around[..., :-2])


def _padding_of(labels: NDArray[Any], inputs: NDArray[Any] | None) -> NDArray[np.bool_] | None:
    """Return where the first rows of labels belong to padding; None if they are not those of sequences."""
    if labels.ndim != 2 or min(labels.shape) < _SHORTEST:
        return None
    padding = _padded(labels, inputs)
    if not padding.any() and inputs is not None and inputs.shape[:2] == labels.shape:  # the time may come first
        padding = _padded(labels.T, np.swapaxes(inputs, 0, 1)).T
    return padding


def _padded(labels: NDArray[Any], inputs: NDArray[Any] | None) -> NDArray[np.bool_]:
    steps, alone = labels.shape[1], True
    tokens = labels[:, :, None]
    if inputs is not None and inputs.ndim in (2, 3) and inputs.shape[1] in (steps, steps + 1):
        rows = min(len(inputs), len(labels))
        labels, tokens, alone = labels[:rows], inputs[:rows, :steps].reshape(rows, steps, -1), False
    for order in (slice(None), slice(None, None, -1)):
        padding = _padding(tokens[:, order])[:, order]
        at = labels[padding]
        if at.size and at[0] != MASKED and (at == at[0]).all():
            return np.zeros_like(padding) if alone and len(np.unique(labels)) < _CLASSES else padding
    return np.zeros(labels.shape, bool)


def _padding(tokens: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where the ends of sequences are padding, without the first position of each run."""
    rows, steps, _ = tokens.shape
    last, counts = np.unique(tokens[:, -1], axis=0, return_counts=True)
    if rows < _ROWS or counts.max() < rows / 2:
        return np.zeros((rows, steps), bool)
    equal = (tokens == last[counts.argmax()]).all(axis=2)
    lengths = np.where(equal.all(axis=1), 0, steps - np.argmax(~equal[:, ::-1], axis=1))[:, None]
    positions = np.arange(steps)
    unequal = len(np.unique(lengths)) >= _LENGTHS
    if not unequal or bool((equal & (positions < lengths)).any()):
        return np.zeros_like(equal)
    return positions > lengths
