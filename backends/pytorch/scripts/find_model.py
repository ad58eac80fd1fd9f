"""Finds the model of an optimizer among all live objects: an optimizer only knows its parameters."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from autotrainer.backends.pytorch.optim.optimizers import parameter_ids

__all__ = ["ModelMatch", "find_model"]

_ParameterIds = Sequence[tuple[nn.Module, set[int]]]
"""Modules, each with the ids of its parameters."""


@dataclass(frozen=True, slots=True)
class ModelMatch:
    """The model of an optimizer.

    Attributes:
        model: The model; a list of modules if no single module has all of its parameters.
        optimizers: The optimizer, and further ones of the model.
        containers: All modules that have some of its parameters.
    """

    model: nn.Module
    optimizers: tuple[Optimizer, ...]
    containers: tuple[nn.Module, ...]


def find_model(optimizer: Optimizer, used: Collection[int], watched: Collection[int]) -> ModelMatch | None:
    """Find the model that an optimizer trains: the smallest module with all of its parameters.

    Parameters that the loss depends on and no other optimizer trains belong to the model, too: so a model is found of
    which the optimizer lacks a part. Of modules with the same parameters, as a model and its wrapper, the outermost is
    taken.

    Args:
        optimizer: The optimizer.
        used: Ids of the parameters that the loss depends on.
        watched: Ids of optimizers whose models are watched already.

    Returns:
        The match; None if no module has any of its parameters.
    """
    modules, optimizers = _live_objects()
    parameters = parameter_ids(optimizer)
    all_modules = [(module, {id(p) for p in module.parameters()}) for module in modules]
    containers = [(module, ids) for module, ids in all_modules if not ids.isdisjoint(parameters)]
    if not containers:
        return None
    parameters &= _union(ids for _, ids in containers)
    others = [o for o in optimizers if o is not optimizer]
    of_others = _union(parameter_ids(o) for o in others if id(o) in watched)
    used = set(used) & _union(ids for _, ids in all_modules) - of_others
    whole = _smallest(containers, parameters | used) or _smallest(containers, parameters)
    model = whole or nn.ModuleList(_outermost(containers))
    ids = {id(p) for p in model.parameters()}
    further = (o for o in others if id(o) not in watched and not parameter_ids(o).isdisjoint(ids))
    return ModelMatch(model, (optimizer, *further), tuple(module for module, _ in containers))


def _live_objects() -> tuple[list[nn.Module], list[Optimizer]]:
    """Return all modules and optimizers, without those that are only partly constructed."""
    classes = _subclasses(nn.Module) | _subclasses(Optimizer)
    objects = [o for o in gc.get_objects() if type(o) in classes]
    modules = [o for o in objects if isinstance(o, nn.Module) and {"_parameters", "_modules"} <= vars(o).keys()]
    return modules, [o for o in objects if isinstance(o, Optimizer) and "param_groups" in vars(o)]


def _subclasses(kind: type) -> set[type]:
    derived: list[type] = type.__subclasses__(kind)
    return {kind}.union(*map(_subclasses, derived))


def _smallest(containers: _ParameterIds, required: set[int]) -> nn.Module | None:
    """Return the module with the fewest parameters that has all required ones; of equal ones the outermost."""
    fitting = [(len(ids), -sum(1 for _ in module.modules()), module) for module, ids in containers if ids >= required]
    return min(fitting, key=lambda item: item[:2])[2] if fitting else None


def _outermost(containers: _ParameterIds) -> list[nn.Module]:
    inside = {id(part) for module, _ in containers for part in module.modules() if part is not module}
    return [module for module, _ in containers if id(module) not in inside]


def _union(sets: Iterable[set[int]]) -> set[int]:
    return set[int]().union(*sets)
