"""Which trainable parameters no optimizer has, and which have a learning rate of 0."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import direct_parameters, watched_modules
from autotrainer.backends.pytorch.model.weight_patterns import is_newly_drawn
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.records.signals import LayerInfo

__all__ = ["ParameterOwnership"]

_COMPARED = 4
"""Entries that tell weights apart."""


class ParameterOwnership:
    """Finds trainable parameters that no optimizer has, and those with a learning rate of 0 while others train.

    Args:
        model: The model.
        optimizers: All its optimizers.
        modules: What `watched_modules` returns for it, if that is known.
    """

    def __init__(
        self, model: nn.Module, optimizers: Sequence[Optimizer], modules: Mapping[str, nn.Module] | None = None
    ) -> None:
        self._optimizers = WeakSequence(optimizers)
        self._layers: dict[str, list[nn.Parameter]] = {}
        assigned: set[int] = set()
        self._modules = watched_modules(model) if modules is None else modules
        for name, module in self._modules.items():
            parameters = [p for p in direct_parameters(module) if id(p) not in assigned]  # shared ones count once
            assigned.update(id(p) for p in parameters)
            self._layers[name] = parameters
        self._state: tuple[int, ...] = ()
        self._copies = frozenset(self._find_copies())  # before the first step, as they part later

    def annotate(self, layers: tuple[LayerInfo, ...]) -> tuple[LayerInfo, ...]:
        """Update ``unowned``, ``start`` and ``frozen`` of the layers; return the same objects if nothing changed."""
        owned = set[int]().union(*map(parameter_ids, self._optimizers))
        zero_rate = self._zero_rate_parameters()
        trainable = {layer: [p for p in parameters if p.requires_grad] for layer, parameters in self._layers.items()}
        state = (len(layers), len(owned), len(zero_rate), *(len(parameters) for parameters in trainable.values()))
        if state == self._state:
            return layers
        self._state = state
        annotated = []
        for info in layers:
            parameters = trainable.get(info.name, ())
            unowned = sum(p.numel() for p in parameters if id(p) not in owned and _is_initialized(p))
            frozen = bool(self._layers.get(info.name)) and all(id(p) in zero_rate for p in parameters)  # or none
            fixed = frozen or unowned > 0
            given = bool(info.start) or info.name in self._copies
            freshly_drawn = fixed and not given and is_newly_drawn(self._modules[info.name])
            start = "drawn" if freshly_drawn else info.start
            changed = (unowned, start, frozen) != (info.unowned, info.start, info.frozen)
            annotated.append(replace(info, unowned=unowned, start=start, frozen=frozen) if changed else info)
        return tuple(annotated)

    def _find_copies(self) -> Iterator[str]:
        """Yield frozen layers with the weights of one that is trained, whose moving average they may become.

        Reads a few entries of each layer; whole weights are compared where these are equal.
        """
        known = {name: [p for p in parameters if _is_initialized(p)] for name, parameters in self._layers.items()}
        largest = {name: max(parameters, key=Tensor.numel) for name, parameters in known.items() if parameters}
        whole = {n: w for n, w in largest.items() if type(w) is nn.Parameter and w.ndim and w.numel() and not w.is_meta}
        if len({w.requires_grad for w in whole.values()}) < 2:
            return
        trained: dict[tuple[Any, ...], list[nn.Parameter]] = {}
        for weight in whole.values():
            if weight.requires_grad:
                trained.setdefault(_start_of(weight), []).append(weight)
        for name, weight in whole.items():
            twins = [] if weight.requires_grad else trained.get(_start_of(weight), [])
            if any(torch.equal(twin, weight) for twin in twins):
                yield name

    def _zero_rate_parameters(self) -> set[int]:
        """Return the parameters of groups with a rate of 0; none if all groups have it, which is not on purpose."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups if "lr" in group]
        zero = [group for group in groups if group["lr"] == 0]
        return {id(p) for group in zero for p in group["params"]} if len(zero) < len(groups) else set()


def _start_of(weight: nn.Parameter) -> tuple[Any, ...]:
    """Return what equal weights share: device, shape, and the first entries."""
    index = (0,) * (weight.ndim - 1)
    return weight.device, weight.shape, weight.dtype, *weight.detach()[index][:_COMPARED].tolist()


def _is_initialized(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, UninitializedParameter)
