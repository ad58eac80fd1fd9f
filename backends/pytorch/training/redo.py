"""Draws the incoming weights of idle units anew between the epochs: ReDo (Sokar et al. 2023)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from autotrainer.backends.pytorch.layers.modules import make_activation
from autotrainer.backends.pytorch.model.describe import watched_modules
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.reinitialize import SCHEMES
from autotrainer.backends.pytorch.training.callbacks import TrainingCallback
from autotrainer.edits import ReviveUnits, initializer_for
from autotrainer.errors import ConfigError

__all__ = ["RedoCallback", "revivable"]

_BATCHES = 8
"""Last batches of an epoch that tell which units are idle."""
_LAST = 0.75
"""Share of the epochs in which units are drawn anew: later they would have no time to learn."""
_ACTIVATED = ("dense", "conv")


class RedoCallback(TrainingCallback):
    """Watches the units of some layers while they train, and draws the idle ones anew; see `ReviveUnits`.

    Args:
        model: The model, with its edits.
        anatomy: Where its activations are.
        optimizer: Its optimizer: forgets the units that are drawn anew.
        edit: Which layers, and what is idle.
        epochs: Planned epochs.
    """

    def __init__(
        self, model: nn.Module, anatomy: ActivationGraph, optimizer: Optimizer, edit: ReviveUnits, epochs: int
    ) -> None:
        self._optimizer, self._threshold, self._until = optimizer, edit.threshold, _LAST * epochs
        self._seen: dict[str, deque[Tensor]] = {}
        self._layers: dict[str, tuple[nn.Module, str]] = {}
        self._handles: list[Any] = []
        modules = watched_modules(model)
        infos = {info.name: info for info in anatomy.layers}
        for name in revivable(anatomy, modules, edit.layers):
            module, activation = modules[name], str(infos[name].activation)
            self._seen[name] = deque(maxlen=_BATCHES)
            self._layers[name] = (module, activation)
            site = _own_site(anatomy, name)
            axis = -1 if infos[name].kind == "dense" else 1
            source, then = (module, make_activation(activation)) if site is None else (modules[site], None)
            self._handles.append(source.register_forward_hook(partial(self._see, name, axis, then)))

    def begin_epoch(self, epoch: int) -> None:
        """Forget what was seen in the epoch before."""
        for sizes in self._seen.values():
            sizes.clear()

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Draw the idle units of each layer anew."""
        if epoch + 1 > self._until:
            return
        for name, sizes in self._seen.items():
            if sizes:
                size = torch.stack(list(sizes)).mean(0)
                module, activation = self._layers[name]
                self._revive(module, size <= self._threshold * size.mean(), activation)

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _see(
        self, name: str, axis: int, then: Callable[[Tensor], Tensor] | None, module: nn.Module, args: Any, output: Any
    ) -> None:
        if not module.training or not isinstance(output, Tensor):
            return
        values = output.detach() if then is None else then(output.detach())
        self._seen[name].append(values.abs().float().movedim(axis, -1).flatten(0, -2).mean(0))

    @torch.no_grad()
    def _revive(self, module: nn.Module, idle: Tensor, activation: str) -> None:
        weight: Any = module.weight
        idle = idle.to(weight.device)
        if not bool(idle.any()):
            return
        fresh = SCHEMES[initializer_for(activation)](torch.empty_like(weight))
        weight[idle] = fresh[idle]
        bias: Any = module.bias
        changed = [weight]
        if isinstance(bias, nn.Parameter):
            bias[idle] = 0
            changed.append(bias)
        for parameter in changed:
            for value in self._optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[idle] = 0


def revivable(anatomy: ActivationGraph, modules: dict[str, nn.Module], names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the layers whose units can be watched and drawn anew one by one.

    Args:
        anatomy: Where the model's activations are.
        modules: Its layers by name.
        names: Layers to choose from.
    """
    return tuple(
        info.name
        for info in anatomy.layers
        if info.name in names and info.hidden and info.kind in _ACTIVATED and info.activation not in (None, "linear")
        if _rows(modules.get(info.name)) == info.units and _is_seen(anatomy, info.name, str(info.activation))
    )


def _rows(module: nn.Module | None) -> int | None:
    """Return how many units a layer's weight has one row each for, or None."""
    if module is None or parametrize.is_parametrized(module) or isinstance(module, nn.modules.conv._ConvTransposeNd):
        return None
    weight = getattr(module, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, nn.Parameter) and weight.ndim > 1 else None


def _own_site(anatomy: ActivationGraph, name: str) -> str | None:
    """Return the activation module that only this layer feeds, or None."""
    sites = [site for site in anatomy.sites if name in site.feeders]
    if len(sites) != 1 or sites[0].feeders != (name,):
        return None
    return sites[0].name if sum(site.name == sites[0].name for site in anatomy.sites) == 1 else None


def _is_seen(anatomy: ActivationGraph, name: str, activation: str) -> bool:
    if _own_site(anatomy, name) is not None:
        return True
    try:
        make_activation(activation)
    except ConfigError:
        return False
    return name not in anatomy.normalized
