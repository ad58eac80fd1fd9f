"""Repeated blocks of a network, found in the names of layers or in their order, and the siblings in them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autotrainer.records.history import RunHistory
from autotrainer.records.signals import PARTS, LayerInfo
from autotrainer.rules._shared.siblings.roles import role_of, role_words, split_number

__all__ = ["SIBLING_NEEDS", "Component", "Stack", "sibling_stacks", "stacks_of"]

SIBLING_NEEDS = frozenset(f"{part}_rms" for part in PARTS)
"""Columns that siblings are found from, besides the description of the layers."""

_MIN_PERIOD = 2
"""Fewest layers of a block that is found by order: a plain stack of equal layers has no roles."""


@dataclass(frozen=True, slots=True)
class Component:
    """A layer, or a part of a layer's weights, in a block.

    Attributes:
        row: Row of the layer table.
        part: One of `PARTS`, or empty for the whole layer.
        role: What its siblings in the other blocks share; unique within its block.
        kind: Role of a matrix in a transformer (``query``, …, ``contract``), or empty.
        block: Number of its block, as the layer's name has it, else counted from 0.
        words: It in words: ``key projection of block 3``.
    """

    row: int
    part: str
    role: str
    kind: str
    block: int
    words: str


@dataclass(frozen=True, slots=True)
class Stack:
    """Equal blocks, one after the other.

    Attributes:
        blocks: Their numbers, in forward order.
        roles: Roles of the components, in forward order of the first block that has them.
        components: All components.
    """

    blocks: tuple[int, ...]
    roles: tuple[str, ...]
    components: tuple[Component, ...]

    @property
    def table(self) -> list[list[Component | None]]:
        """The components by role and block."""
        places = {(component.role, component.block): component for component in self.components}
        return [[places.get((role, block)) for block in self.blocks] for role in self.roles]


_Place = tuple[int, str, int, str]
"""Row, stack, number of the block, role."""


def sibling_stacks(history: RunHistory, *, parts: bool = True) -> tuple[Stack, ...]:
    """Return the stacks of at least two blocks in the model.

    Args:
        history: The history.
        parts: Whether the parts of joint attention weights are components, rather than their layers.
    """
    if not parts:
        return stacks_of(history.layers)
    latest = {part: history.layer(f"{part}_rms")[-1:] for part in PARTS}
    measured = tuple(
        tuple(part for part in PARTS if latest[part].size and np.isfinite(latest[part][0, row]))
        for row in range(len(history.layers))
    )
    return _stacks(history.layers, measured)


def stacks_of(layers: tuple[LayerInfo, ...]) -> tuple[Stack, ...]:
    """Return the stacks of at least two blocks among layers, whose components are whole layers."""
    return _stacks(layers, ((),) * len(layers))


@lru_cache(maxsize=8)
def _stacks(layers: tuple[LayerInfo, ...], parts: tuple[tuple[str, ...], ...]) -> tuple[Stack, ...]:
    rows = [row for row, layer in enumerate(layers) if layer.parameters or layer.frozen]
    places = _by_name(layers, rows) or _by_order(layers, rows)
    names = sorted({stack for _, stack, _, _ in places})
    stacks = []
    for name in names:
        label = f"{name.split('.')[0]} " if len(names) > 1 and name else ""
        components = [
            Component(row, part, f"{role}:{part}", role_of(layers[row], part), block, "")
            for row, stack, block, role in places
            if stack == name
            for part in parts[row] or ("",)
        ]
        named = [(c, f"{role_words(layers[c.row], c.part)} of {label}block {c.block}") for c in components]
        components = [Component(c.row, c.part, c.role, c.kind, c.block, words) for c, words in named]
        blocks = tuple(dict.fromkeys(c.block for c in components))
        if len(blocks) > 1:
            stacks.append(Stack(blocks, tuple(dict.fromkeys(c.role for c in components)), tuple(components)))
    return tuple(stacks)


def _signature(layer: LayerInfo) -> tuple[str, int | None, int | None]:
    return layer.kind, layer.units, layer.inputs


def _by_name(layers: Sequence[LayerInfo], rows: Sequence[int]) -> list[_Place]:
    """Find blocks by numbers in the names of what contains the layers (``h.0.attn``, ``transformer_block_1/dense``).

    Of several numbers in a name, that counts which gives most siblings.
    """
    choices: dict[int, list[tuple[str, int, str]]] = {}
    for row in rows:
        slashes = "/" in layers[row].name  # Keras: the first of several layers of a class has no number
        segments = re.split(r"[./]", layers[row].name)
        choices[row] = []
        for position, segment in enumerate(segments[:-1]):
            base, number = split_number(segment)
            if number is None and not slashes:
                continue
            suffix = [split_number(each)[0] if slashes else each for each in segments[position + 1 :]]
            choices[row].append((".".join([*segments[:position], base]), number or 0, ".".join(suffix)))
    members: dict[tuple[object, ...], set[int]] = defaultdict(set)
    for row, options in choices.items():
        for stack, block, role in options:
            members[stack, role, _signature(layers[row])].add(block)
    places, counts = list[_Place](), Counter[tuple[str, int, str]]()
    for row, options in choices.items():
        sizes = [len(members[stack, role, _signature(layers[row])]) for stack, _, role in options]
        if max(sizes, default=0) < 2:
            continue
        stack, block, role = options[sizes.index(max(sizes))]
        counts[stack, block, role] += 1
        repeated = counts[stack, block, role]
        places.append((row, stack, block, role if repeated == 1 else f"{role}#{repeated}"))
    return places


def _by_order(layers: Sequence[LayerInfo], rows: Sequence[int]) -> list[_Place]:
    """Find blocks as the longest repetition in the order of the layers, if names do not show them."""
    signs = [(re.sub(r"\d+", "", layers[row].name), *_signature(layers[row])) for row in rows]
    numbers = {sign: number for number, sign in enumerate(dict.fromkeys(signs))}
    codes = np.array([numbers[sign] for sign in signs])
    best, begin, size = 0, 0, 0
    for period in range(_MIN_PERIOD, len(signs) // 2 + 1):
        breaks = np.flatnonzero(codes[period:] != codes[:-period])
        starts = np.concatenate([[0], breaks + 1])
        runs = np.concatenate([breaks, [len(signs) - period]]) - starts
        covered = np.where(runs >= period, (runs + period) // period * period, 0)
        longest = int(covered.argmax())
        if covered[longest] > best:
            best, begin, size = int(covered[longest]), int(starts[longest]), period
    if not size or len(set(signs[begin : begin + size])) < _MIN_PERIOD:
        return []
    return [(rows[begin + offset], "", offset // size, str(offset % size)) for offset in range(best)]
