"""The parts of tensors that this process holds, where a model is spread over several: read without communication."""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from torch import Tensor, nn

from autotrainer.backends.pytorch.runtime.tensors import is_dtensor_type
from autotrainer.backends.pytorch.runtime.torch_private import flat_parameters, shards_flat

__all__ = ["Shards", "is_copied", "is_spread", "is_summand", "local_part", "whole_rows"]


def is_spread(tensor: Any) -> bool:
    """Return whether a tensor is a `DTensor`: an operation on it may communicate with other processes."""
    if type(tensor) in (Tensor, nn.Parameter):
        return False
    return is_dtensor_type(type(tensor))


def is_copied(tensor: Tensor) -> bool:
    """Return whether a distributed tensor is whole in each process of its mesh."""
    return is_spread(tensor) and all(placement.is_replicate() for placement in _placements(tensor))


def is_summand(tensor: Tensor) -> bool:
    """Return whether the values of a distributed tensor are the sum of those that several processes hold."""
    return is_spread(tensor) and any(placement.is_partial() for placement in _placements(tensor))


def local_part(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor; an ordinary tensor as it is."""
    if not is_spread(tensor):
        return tensor
    part: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return part


def whole_rows(tensor: Tensor | None) -> Tensor | None:
    """Return the samples of a tensor that this process holds, with all their values; None if it holds parts of them."""
    if tensor is None or not is_spread(tensor):
        return tensor
    whole = all(placement.is_replicate() or placement.is_shard(0) for placement in _placements(tensor))
    return local_part(tensor) if whole else None


def _placements(tensor: Any) -> tuple[Any, ...]:
    return tuple(tensor.placements)


class _Layout(NamedTuple):
    """How a parameter is spread: processes of its mesh, how many of them hold each entry, and its axes as a whole."""

    processes: int
    copies: int
    axes: int = 0


class Shards:
    """How the parameters of a model are spread over processes.

    Args:
        model: The model, as it is trained.
    """

    def __init__(self, model: nn.Module) -> None:
        self._flat: dict[int, _Layout] = {}
        modules = list(model.modules())
        for module in modules if "torch.distributed.fsdp" in sys.modules else ():
            if shards_flat(module):
                group: Any = module.process_group
                processes = int(group.size())
                for parameter, axes in flat_parameters(module):
                    self._flat[id(parameter)] = _Layout(processes, 1, axes)
        spread = [each for each in model.parameters() if is_spread(each)]
        split = [sum(placement.is_shard() for placement in _placements(each)) for each in spread]
        kinds = {base.__name__ for kind in {type(module) for module in modules} for base in kind.__mro__}
        whole_models = {"DistributedDataParallel", "FullyShardedDataParallel"}
        self.parallel_data = bool(kinds & whole_models) or ("FSDPModule" in kinds and max(split, default=0) == 1)
        """Whether the processes are known to train on different data."""
        self.spread = bool(self._flat or spread)
        """Whether any parameter is spread."""

    def factor(self, parameter: Tensor, peers: int | None) -> float:
        """Return what sums over the entries here are multiplied by, so that they add up to those of the whole.

        Each entry then counts once, however many processes hold it.

        Args:
            parameter: The parameter.
            peers: Number of processes that add up their sums; None if this one's stand for the whole.
        """
        layout = self._layout(parameter)
        if peers is None:
            if is_spread(parameter):
                return parameter.numel() / max(1, local_part(parameter).numel())
            return layout.processes / layout.copies
        return layout.processes / (peers * layout.copies)

    def summand_factor(self, parameter: Tensor, peers: int) -> float:
        """Return what summands of a gradient are multiplied by, so that those of all ``peers`` add up to it."""
        gradient: Any = parameter.grad
        mesh = gradient.device_mesh
        copies = [mesh.size(i) for i, placement in enumerate(_placements(gradient)) if placement.is_replicate()]
        mean = [
            mesh.size(i)
            for i, placement in enumerate(_placements(gradient))
            if placement.is_partial() and getattr(placement, "reduce_op", "sum") == "avg"
        ]
        return mesh.size() / (peers * math.prod(copies) * math.prod(mean))  # type: ignore[no-any-return]

    def axes(self, parameter: Tensor) -> int:
        """Return the number of axes of a whole parameter."""
        return self._flat[id(parameter)].axes if id(parameter) in self._flat else parameter.ndim

    def description(self, parameter: Tensor) -> str:
        """Return how a parameter is spread, in words that are equal in all processes that hold parts of it."""
        if is_spread(parameter):
            return f"{tuple(parameter.shape)}{_placements(parameter)}"
        return "flat" if id(parameter) in self._flat else str(tuple(parameter.shape))

    def _layout(self, parameter: Any) -> _Layout:
        if is_spread(parameter):
            mesh = parameter.device_mesh
            copies = [mesh.size(i) for i, placement in enumerate(_placements(parameter)) if placement.is_replicate()]
            return _Layout(mesh.size(), math.prod(copies))
        return self._flat.get(id(parameter), _Layout(1, 1))
