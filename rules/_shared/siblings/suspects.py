"""What is wrong with a component that is unlike its siblings: apart, dead, or frozen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.measurement import names_positions
from autotrainer.records.signals import Floats, LayerInfo
from autotrainer.rules._shared.layers import is_pretrained
from autotrainer.rules._shared.siblings.blocks import Component, Stack
from autotrainer.rules._shared.siblings.comparison import Outlier, series_of
from autotrainer.rules._shared.trends import last_median
from autotrainer.rules._shared.words import about

__all__ = [
    "CERTAIN",
    "ZERO",
    "Suspect",
    "bare_suspects",
    "cut_suspects",
    "dead_suspects",
    "frozen_suspects",
    "full_rank",
    "outlier_suspect",
    "position_suspects",
]

_SAMPLES = 5
"""Fewest samples of weights that show that they never change."""

_PRECISION = 2.0**-24
"""Relative change that is rounded away in single precision."""

ZERO = 3
"""Rank of weights that are exactly zero among dead components."""

_LOW_RANK = 4
"""Width of the blocks ÷ units or inputs of a matrix from which it is an adapter, initialized apart from the others."""

_ATTENTION = frozenset({"query", "key", "value", "projection"})

_CUT, _EVEN, _ALIKE = 0.015, 0.02, 0.05
"""Share of the gradient that is exactly zero, at least: one of 64 heads; by how much it may change from sample to
sample, and differ between the projections of a block, whose biases count as well."""

CERTAIN, _PERHAPS = 1.5, 0.5
"""Excess of a fact that counts from the first poor outcome on, and of what may be meant, which counts at half time."""

_AT_MOST_WARNING = -1.0
"""Excess of what may be meant whatever the outcome."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """What is wrong with a component.

    Attributes:
        component: The component.
        text: What is wrong, in words.
        excess: How far beyond the limit: ratio of the logarithms, less 1; below 0 if it is never an error.
        evidence: Numbers.
        dead: 0 for one that works; 1 without gradient, 2 without change, 3 with zeros alone, which cause the others.
    """

    component: Component
    text: str
    excess: float
    evidence: dict[str, float]
    dead: int = 0


def outlier_suspect(outlier: Outlier, words: str, limit: float, siblings: str = "its siblings") -> Suspect:
    """Return what is wrong with an outlier.

    Args:
        outlier: The outlier.
        words: What was measured, with a verb.
        limit: Factor from which it is an outlier.
        siblings: What it was compared with.
    """
    evidence = {"ratio": outlier.ratio, "value": outlier.value, "siblings": outlier.usual}
    text = (
        f"the {outlier.component.words} is apart from {siblings}: its {words} {about(outlier.value)}, "
        f"theirs about {about(outlier.usual)} ({about(outlier.ratio)} times what is usual)"
    )
    ratio = min(max(outlier.ratio, 1e-300), 1e300)
    return Suspect(outlier.component, text, abs(math.log(ratio)) / math.log(limit) - 1, evidence)


def dead_suspects(history: RunHistory, stack: Stack, trained: set[int]) -> Iterator[Suspect]:
    """Yield dead components; at most as a warning those of blocks without any trained one that works.

    Whole blocks may have no part in some steps by design: experts, heads of other tasks, blocks that are added later.

    Args:
        history: The history.
        stack: The blocks.
        trained: Rows of the layers that are trained.
    """
    lines = ([component for component in line if component is not None] for line in stack.table)
    suspects = [suspect for line in lines if len(line) > 1 for suspect in _dead(history, line, trained)]
    components = {suspect.component for suspect in suspects if suspect.dead != ZERO}
    working = {c.block for c in stack.components if c.row in trained and c not in components}
    for suspect in suspects:
        whole = suspect.dead != ZERO and suspect.component.block not in working
        yield replace(suspect, excess=_AT_MOST_WARNING) if whole else suspect


def full_rank(layers: Sequence[LayerInfo], components: Sequence[Component]) -> list[Component]:
    """Return the matrices without those of adapters, which are much narrower than the block (LoRA, bottlenecks).

    Args:
        layers: The layers.
        components: Matrices.
    """
    ranks = {c: min(layers[c.row].units or 0, layers[c.row].inputs or 0) for c in components}
    width = max(ranks.values(), default=0)
    return [
        c for c in components if c.kind not in ("expand", "gate", "contract") or not 0 < ranks[c] * _LOW_RANK <= width
    ]


def frozen_suspects(
    stack: Stack, frozen: set[int], layers: Sequence[LayerInfo], *, everywhere: bool
) -> Iterator[Suspect]:
    """Yield frozen matrices in blocks of which most are trained.

    Whole blocks are frozen on purpose. A role that is frozen in all other blocks may be, too, unless the outcome is
    poor (``everywhere``) and the frozen weights were never trained: fine-tuning may train adapters or some roles alone.

    Args:
        stack: The blocks.
        frozen: Rows of the frozen layers.
        layers: The layers.
        everywhere: Whether a role that is frozen in all blocks counts.
    """
    pretrained = is_pretrained([layers[c.row] for c in stack.components])
    matrices = [c for c in stack.components if c.kind]
    adapted = len(full_rank(layers, matrices)) < len(matrices)
    whole = {b for b in stack.blocks if all(c.row in frozen for c in matrices if c.block == b)}
    inside = [c for c in matrices if c.block not in whole]
    hit = [c for c in inside if c.row in frozen]
    if not hit or len(hit) > len(inside) / 2:
        return
    for component in hit:
        siblings = [c for c in inside if c.role == component.role and c is not component]
        drawn = all(layers[c.row].origin == "drawn" for c in (component, *siblings))  # briefly trained ones look it
        useful = adapted or (pretrained and not drawn)
        if all(c.row in frozen for c in siblings) and (useful or not everywhere):
            continue
        text = f"the {component.words} is frozen, while most of its block is trained"
        never = pretrained and layers[component.row].origin == "drawn"
        excess = CERTAIN if never or any(c.row not in frozen for c in siblings) else _PERHAPS
        yield Suspect(component, text, excess, {"siblings": float(len(siblings))})


def position_suspects(history: RunHistory, layers: Sequence[LayerInfo], limit: float) -> Iterator[Suspect]:
    """Yield trained embeddings of positions that drown those of the tokens to which they are added.

    Tokens may be multiplied by the root of their width before (Vaswani et al. 2017, section 3.4), as they usually are
    beside fixed sines. So a factor up to that is at most a warning.

    Args:
        history: The history.
        layers: The layers.
        limit: Factor of the weights' root mean squares, at the start and now.
    """
    embeddings = [row for row, layer in enumerate(history.layers) if layer.kind == "embedding"]
    sizes = history.layer("weight_rms")[[0, -1]].min(axis=0)
    for row in embeddings:
        layer = history.layers[row]
        peers = [r for r in embeddings if history.layers[r].units == layer.units]
        tokens = [r for r in peers if not names_positions(history.layers[r].name)]
        fixed = layers[row].frozen or layers[row].unowned >= layers[row].parameters
        if fixed or not names_positions(layer.name) or len(tokens) != 1 or not sizes[tokens[0]] > 0:
            continue
        usual, ratio = float(sizes[tokens[0]]), float(sizes[row] / sizes[tokens[0]])
        if ratio >= limit:
            outlier = Outlier(
                Component(row, "", "positions", "", 0, f"embedding {layer.name}"), usual * ratio, usual, ratio
            )
            suspect = outlier_suspect(outlier, "weights are", limit, siblings="the embedding of tokens")
            certain = ratio > math.sqrt(layer.units or 1)
            yield replace(suspect, excess=max(suspect.excess, CERTAIN) if certain else _AT_MOST_WARNING)


def bare_suspects(stack: Stack, layers: Sequence[LayerInfo]) -> Iterator[Suspect]:
    """Yield feed-forward matrices without an activation, if those of the other blocks have one.

    What follows a layer in user code is unknown, but follows it in all blocks.

    Args:
        stack: The blocks.
        layers: The layers.
    """
    for line in stack.table:
        matrices = [c for c in line if c is not None and c.kind == "expand"]
        bare = [c for c in matrices if layers[c.row].activation in ("linear", None)]
        names = {layers[c.row].activation for c in matrices if c not in bare}
        if len(bare) != 1 or len(names) != 1 or None in names:
            continue
        own = "" if layers[bare[0].row].activation else " of its own"
        text = f"the {bare[0].words} has no activation{own}, its siblings have {next(iter(names))}"
        yield Suspect(bare[0], text, _PERHAPS, {"siblings": float(len(matrices) - 1)})


def cut_suspects(history: RunHistory, stack: Stack) -> Iterator[Suspect]:
    """Yield attention projections of which the same share never receives a gradient: heads that are cut off.

    Half precision makes other entries zero in each step, and pruning those of the feed-forward matrices, too.

    Args:
        history: The history.
        stack: The blocks.
    """
    shares = history.layer("grad_zero_fraction")
    shares = shares[np.isfinite(history.scalar("grad_norm"))]
    if len(shares) < _SAMPLES:
        return
    low, high = shares.min(axis=0), shares.max(axis=0)
    for block in stack.blocks:
        members = {c.row: c for c in reversed(stack.components) if c.block == block and c.kind}
        even = {r for r, c in members.items() if c.kind in _ATTENTION and high[r] < 1 and high[r] - low[r] <= _EVEN}
        even = {r for r in even if low[r] >= _CUT}
        cut = sorted(r for r in even if sum(abs(low[r] - low[other]) <= _ALIKE for other in even) > 1)
        rest = [low[r] for r, c in members.items() if c.kind not in _ATTENTION and np.isfinite(low[r])]
        if not cut or (rest and max(rest) >= low[cut[0]] / 2):
            continue
        for row in cut:
            text = (
                f"{low[row]:.0%} of the weights of the {members[row].words} never receive a gradient, as of other "
                "attention projections of its block: heads are cut off (masked, sliced or overwritten)"
            )
            yield Suspect(members[row], text, _PERHAPS, {"value": float(low[row]), "siblings": float(len(cut) - 1)})


def _dead(history: RunHistory, siblings: list[Component], trained: set[int]) -> Iterator[Suspect]:
    """Yield components that are exactly zero, never change or never receive a gradient, while siblings do."""
    weights = {c: series_of(history, c, "weight") for c in siblings}
    gradients = {c: series_of(history, c, "gradient") for c in siblings}
    half = slice(len(history.steps) // 2, None)
    alive = [c for c in siblings if _mostly(gradients[c] > 0)]
    changes = {c: _distinct(weights[c]) for c in siblings}
    moving = [c for c in siblings if changes[c] >= len(history.steps) / 2]
    steps = history.layer("update_ratio")
    for component in siblings:
        values, norms = weights[component], gradients[component]
        count = int(np.isfinite(values).sum())
        if count < _SAMPLES:
            continue
        name = component.words
        if np.isfinite(values[half]).any() and (np.nan_to_num(values[half]) == 0).all():
            dead = ZERO
            text = f"the weights of the {name} stay exactly zero"
        elif component.row not in trained:
            continue
        elif alive and not (np.nan_to_num(norms) > 0).any():
            dead = 1
            text = f"the {name} receives no gradient in any of {count} sampled steps, while its siblings do"
        elif not component.part and (steps[:, component.row] > 0).any():
            continue  # weights of constant size
        elif moving and component not in moving and changes[component] == 1 and _mostly(norms > 0):
            if _lost_in_rounding(component, moving, weights, gradients, steps):
                continue
            dead = 2
            text = (
                f"the weights of the {name} have gradients but are the same to the bit in all of {count} sampled "
                f"steps, while its siblings change"
            )
        else:
            continue
        others = [float(last_median(weights[c][:, None])[0]) for c in siblings if c is not component]
        evidence = {
            "value": float(last_median(values[:, None])[0]),
            "siblings": float(np.median(others)),
            "samples": float(count),
        }
        yield Suspect(component, text, math.inf, evidence, dead)


def _lost_in_rounding(
    component: Component,
    moving: list[Component],
    weights: dict[Component, Floats],
    gradients: dict[Component, Floats],
    steps: Floats,
) -> bool:
    """Return whether steps in proportion to the gradients, as those of siblings that change, are too small to count.

    Where gradients vanish over many layers, the first ones stay the same although nothing is wrong with them.
    """
    ratios = []
    for sibling in moving:
        with np.errstate(all="ignore"):
            share = gradients[component] / gradients[sibling] * weights[sibling] / weights[component]
        ratios.append(_middle(steps[:, sibling.row] * share))
    known = [ratio for ratio in ratios if np.isfinite(ratio)]
    return bool(known) and float(np.median(known)) < _PRECISION


def _middle(values: Floats) -> float:
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else math.nan


def _mostly(condition: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> bool:
    return bool(condition.mean() > 0.5)


def _distinct(values: Floats) -> int:
    """Return the number of times that a series changes, plus 1; NaN counts as a change."""
    return 1 + int((values[1:] != values[:-1]).sum())
