"""Random generators that data have of their own, beside the global ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

__all__ = ["Generators"]

_LOADERS = ("loader", "dataloader", "sampler", "batch_sampler", "dataset", "datasets", "collate_fn")
_PARTS = (*_LOADERS, "transform", "transforms", "target_transform", "augment", "augmentation")
"""Attributes by which loaders, data sets and transforms hold each other."""
_DEEPEST = 6
_LONGEST = 32
"""Parts of a list of transforms or data sets at most; a longer one holds samples."""
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState)

_State = Any


@dataclass(frozen=True, slots=True)
class Generators:
    """The generators in the attributes of a loader, its samplers, its data set and its transforms, with their states.

    Attributes:
        found: The generators and their states when they were found.
    """

    found: tuple[tuple[Any, _State], ...]

    @classmethod
    def of(cls, loader: Any) -> Self:
        """Return those of a loader, as they are."""
        unique = {id(generator): generator for generator in _inside(loader, _DEEPEST)}
        return cls(tuple((generator, _state(generator)) for generator in unique.values()))

    def now(self) -> Self:
        """Return the same generators with their present states."""
        return type(self)(tuple((generator, _state(generator)) for generator, _ in self.found))

    def restore(self) -> None:
        """Put them back to the states kept here."""
        for generator, state in self.found:
            if isinstance(generator, torch.Generator | np.random.RandomState):
                generator.set_state(state)
            elif isinstance(generator, np.random.Generator):
                generator.bit_generator.state = state
            else:
                generator.setstate(state)


def _state(generator: Any) -> _State:
    if isinstance(generator, torch.Generator | np.random.RandomState):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return copy.deepcopy(generator.bit_generator.state)
    return generator.getstate()


def _inside(owner: Any, depth: int) -> Iterator[Any]:
    if depth < 0:
        return
    if isinstance(owner, list | tuple):
        for part in owner if len(owner) <= _LONGEST else ():
            yield from _inside(part, depth - 1)
        return
    held = getattr(owner, "__dict__", None)
    for name, value in list(held.items()) if isinstance(held, dict) else ():
        if isinstance(value, _KINDS) or type(value) is random.Random:
            yield value
        elif name in _PARTS:
            yield from _inside(value, depth - 1)
