"""Random generators that belong to the data, besides the global ones."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

__all__ = ["RandomGenerators"]

_LOADERS = ("loader", "dataloader", "sampler", "batch_sampler", "dataset", "datasets", "collate_fn")
_PARTS = (*_LOADERS, "transform", "transforms", "target_transform", "augment", "augmentation")
"""Attributes by which loaders, data sets and transforms refer to each other."""
_DEEPEST = 6
_LONGEST = 32
"""Length up to which a list is searched as one of transforms or data sets; a longer one holds samples."""
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState)

_State = Any


@dataclass(frozen=True, slots=True)
class RandomGenerators:
    """The generators in the attributes of a loader, its samplers, its data set and its transforms.

    Attributes:
        states: The generators, each with its state.
    """

    states: tuple[tuple[Any, _State], ...]

    @classmethod
    def of(cls, loader: Any) -> Self:
        """Return the generators of a loader with their current states."""
        unique = {id(generator): generator for generator in _generators_in(loader, _DEEPEST)}
        return cls(tuple((generator, _state(generator)) for generator in unique.values()))

    def now(self) -> Self:
        """Return the same generators with their current states."""
        return type(self)(tuple((generator, _state(generator)) for generator, _ in self.states))

    def restore(self) -> None:
        """Set the generators to the states kept here."""
        for generator, state in self.states:
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


def _generators_in(owner: Any, depth: int) -> Iterator[Any]:
    if depth < 0:
        return
    if isinstance(owner, list | tuple):
        for part in owner if len(owner) <= _LONGEST else ():
            yield from _generators_in(part, depth - 1)
        return
    attributes = getattr(owner, "__dict__", None)
    for name, value in list(attributes.items()) if isinstance(attributes, dict) else ():
        if isinstance(value, _KINDS) or type(value) is random.Random:
            yield value
        elif name in _PARTS:
            yield from _generators_in(value, depth - 1)
