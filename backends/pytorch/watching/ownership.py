"""Which parameters the optimizers own, and which of them rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from autotrainer.backends.pytorch.model.describe import own_parameters, watched_modules
from autotrainer.backends.pytorch.model.weight_patterns import is_newly_drawn
from autotrainer.records.signals import LayerInfo

__all__ = ["Ownership"]


class Ownership:
    """Which trainable parameters no optimizer owns, and which have a learning rate of 0 while others train.

    Args:
        model: The model.
        optimizers: All its optimizers.
    """

    def __init__(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = optimizers
        self._layers: dict[str, list[nn.Parameter]] = {}
        known: set[int] = set()
        self._modules = watched_modules(model)
        for name, module in self._modules.items():
            own = [p for p in own_parameters(module) if id(p) not in known]  # shared ones count where they come first
            known.update(id(p) for p in own)
            self._layers[name] = own
        self._frozen: dict[str, bool] = {}
        self._state: tuple[int, ...] = ()

    def tell(self, layers: tuple[LayerInfo, ...]) -> tuple[LayerInfo, ...]:
        """Return the layers with what is known of them now: the same ones if nothing has changed since."""
        owned = {id(p) for optimizer in self._optimizers for group in optimizer.param_groups for p in group["params"]}
        resting = self._resting()
        trainable = {n: [p for p in parameters if p.requires_grad] for n, parameters in self._layers.items()}
        state = (len(layers), len(owned), len(resting), *(len(parameters) for parameters in trainable.values()))
        if state == self._state:
            return layers
        self._state = state
        told = []
        for info in layers:
            own = trainable.get(info.name, ())
            unowned = sum(p.numel() for p in own if id(p) not in owned and _real(p))
            drawn = unowned > 0 and not info.start and is_newly_drawn(self._modules[info.name])
            frozen = self._frozen.setdefault(info.name, info.frozen)
            frozen |= bool(own) and all(id(p) in resting for p in own)
            told.append(replace(info, unowned=unowned, start="drawn" if drawn else info.start, frozen=frozen))
        return tuple(told)

    def _resting(self) -> set[int]:
        """Return the parameters whose group has a rate of 0, as long as others have one: that is meant."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups if "lr" in group]
        zero = [group for group in groups if group["lr"] == 0]
        return {id(p) for group in zero for p in group["params"]} if len(zero) < len(groups) else set()


def _real(parameter: nn.Parameter) -> bool:
    return not isinstance(parameter, UninitializedParameter)
