"""Finds the model of an optimizer among all objects that live: an optimizer knows its parameters alone."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

__all__ = ["Found", "find_model"]

_Held = Sequence[tuple[nn.Module, set[int]]]
"""Modules, each with the ids of its parameters."""


@dataclass(frozen=True, slots=True)
class Found:
    """What belongs to an optimizer.

    Attributes:
        model: The model; a list of modules where no module holds all of it.
        optimizers: The optimizer, and the further ones of the model.
        around: All modules that hold some of its parameters.
    """

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    around: tuple[nn.Module, ...]


def _owned(optimizer: Optimizer) -> set[int]:
    """Return the ids of an optimizer's parameters."""
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def find_model(optimizer: Optimizer, used: Collection[int], known: Collection[int]) -> Found | None:
    """Find the model that an optimizer trains: the smallest one that holds all of it.

    Parameters that the loss depends on and that nobody else trains belong to the model too: so one is found of which a
    part was forgotten. Of modules that hold the same, as a model and the wrapper around it, the outermost is taken.

    Args:
        optimizer: The optimizer.
        used: Ids of the parameters that the loss depends on.
        known: Ids of optimizers whose models are known.

    Returns:
        What was found; None where no module holds any of its parameters.
    """
    modules, optimizers = _alive()
    own = _owned(optimizer)
    everywhere = [(module, {id(p) for p in module.parameters()}) for module in modules]
    around = [(module, held) for module, held in everywhere if not held.isdisjoint(own)]
    if not around:
        return None
    own &= _union(held for _, held in around)
    others = [o for o in optimizers if o is not optimizer]
    elsewhere = _union(_owned(o) for o in others if id(o) in known)
    used = set(used) & _union(held for _, held in everywhere) - elsewhere
    model = _smallest(around, own | used) or _smallest(around, own) or nn.ModuleList(_outermost(around))
    held = {id(p) for p in model.parameters()}
    further = (o for o in others if id(o) not in known and not _owned(o).isdisjoint(held))
    return Found(model, (optimizer, *further), tuple(module for module, _ in around))


def _alive() -> tuple[list[nn.Module], list[Optimizer]]:
    """Return all modules and optimizers; those whose constructors have not come far are left out."""
    kinds = _subclasses(nn.Module) | _subclasses(Optimizer)
    found = [o for o in gc.get_objects() if type(o) in kinds]
    modules = [o for o in found if isinstance(o, nn.Module) and {"_parameters", "_modules"} <= vars(o).keys()]
    return modules, [o for o in found if isinstance(o, Optimizer) and "param_groups" in vars(o)]


def _subclasses(kind: type) -> set[type]:
    derived: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_subclasses, derived))


def _smallest(around: _Held, wanted: set[int]) -> nn.Module | None:
    """Return the module with the fewest parameters that holds all of the wanted ones; of equal ones the outermost."""
    fitting = [(len(held), -sum(1 for _ in module.modules()), module) for module, held in around if held >= wanted]
    return min(fitting, key=lambda one: one[:2])[2] if fitting else None


def _outermost(around: _Held) -> list[nn.Module]:
    inside = {id(part) for module, _ in around for part in module.modules() if part is not module}
    return [module for module, _ in around if id(module) not in inside]


def _union(sets: Iterable[set[int]]) -> set[int]:
    return set[int]().union(*sets)
