"""Reinitializes the incoming weights of idle units between epochs: ReDo (Sokar et al. 2023)."""

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
from autotrainer.backends.pytorch.runtime.torch_private import ConvTranspose
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.reinitialize import SCHEMES
from autotrainer.backends.pytorch.training.callbacks import TrainingCallback
from autotrainer.edits import ReviveUnits, initializer_for
from autotrainer.errors import ConfigError

__all__ = ["RedoCallback", "redo_layers"]

_LAST_BATCHES = 8
"""Last batches of an epoch that decide which units are idle."""
_ACTIVATED = ("dense", "conv")


class RedoCallback(TrainingCallback):
    """Observes the units of some layers during training, and reinitializes idle ones; see `ReviveUnits`.

    Args:
        model: The edited model.
        activation_graph: Its activations.
        optimizer: Its optimizer, whose state of reinitialized units is cleared.
        edit: The layers, and the threshold of idle units.
        epochs: Planned epochs.
    """

    def __init__(
        self, model: nn.Module, activation_graph: ActivationGraph, optimizer: Optimizer, edit: ReviveUnits, epochs: int
    ) -> None:
        self._optimizer, self._threshold, self._until = optimizer, edit.threshold, edit.revival_share * epochs
        self._activities: dict[str, deque[Tensor]] = {}
        self._layers: dict[str, tuple[nn.Module, str]] = {}
        self._handles: list[Any] = []
        modules = watched_modules(model)
        infos = {info.name: info for info in activation_graph.layers}
        for name in redo_layers(activation_graph, modules, edit.layers):
            module, activation = modules[name], str(infos[name].activation)
            self._activities[name] = deque(maxlen=_LAST_BATCHES)
            self._layers[name] = (module, activation)
            node = _sole_node(activation_graph, name)
            axis = -1 if infos[name].kind == "dense" else 1
            source, function = (module, make_activation(activation)) if node is None else (modules[node], None)
            self._handles.append(source.register_forward_hook(partial(self._record_activity, name, axis, function)))

    def begin_epoch(self, epoch: int) -> None:
        """Drop the activities of the previous epoch."""
        for activities in self._activities.values():
            activities.clear()

    def end_epoch(self, epoch: int, loss: float) -> None:
        """Reinitialize the idle units of each layer."""
        if epoch + 1 > self._until:
            return
        for name, activities in self._activities.items():
            if activities:
                activity = torch.stack(list(activities)).mean(0)
                module, activation = self._layers[name]
                self._reinitialize_units(module, activity <= self._threshold * activity.mean(), activation)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()
    def _record_activity(
        self,
        name: str,
        axis: int,
        function: Callable[[Tensor], Tensor] | None,
        module: nn.Module,
        args: Any,
        output: Any,
    ) -> None:
        if not module.training or not isinstance(output, Tensor):
            return
        values = output.detach() if function is None else function(output.detach())
        self._activities[name].append(values.abs().float().movedim(axis, -1).flatten(0, -2).mean(0))

    @torch.no_grad()
    def _reinitialize_units(self, module: nn.Module, idle: Tensor, activation: str) -> None:
        weight: Any = module.weight
        idle = idle.to(weight.device)
        if not bool(idle.any()):
            return
        new_weights = SCHEMES[initializer_for(activation)](torch.empty_like(weight))
        weight[idle] = new_weights[idle]
        bias: Any = module.bias
        parameters = [weight]
        if isinstance(bias, nn.Parameter):
            bias[idle] = 0
            parameters.append(bias)
        for parameter in parameters:
            for value in self._optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value[idle] = 0


def redo_layers(
    activation_graph: ActivationGraph, modules: dict[str, nn.Module], names: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the layers whose units can be observed and reinitialized one by one.

    Args:
        activation_graph: The model's activations.
        modules: Its layers by name.
        names: Layers to choose from.
    """
    return tuple(
        info.name
        for info in activation_graph.layers
        if info.name in names and info.hidden and info.kind in _ACTIVATED and info.activation not in (None, "linear")
        if _unit_rows(modules.get(info.name)) == info.units
        if _is_observable(activation_graph, info.name, str(info.activation))
    )


def _unit_rows(module: nn.Module | None) -> int | None:
    """Return the number of units if a layer's weight has one row for each, or None."""
    if module is None or parametrize.is_parametrized(module) or isinstance(module, ConvTranspose):
        return None
    weight = getattr(module, "weight", None)
    return int(weight.shape[0]) if isinstance(weight, nn.Parameter) and weight.ndim > 1 else None


def _sole_node(activation_graph: ActivationGraph, name: str) -> str | None:
    """Return the activation module that only this layer feeds, or None."""
    nodes = [node for node in activation_graph.nodes if name in node.feeders]
    if len(nodes) != 1 or nodes[0].feeders != (name,):
        return None
    return nodes[0].name if sum(node.name == nodes[0].name for node in activation_graph.nodes) == 1 else None


def _is_observable(activation_graph: ActivationGraph, name: str, activation: str) -> bool:
    if _sole_node(activation_graph, name) is not None:
        return True
    try:
        make_activation(activation)
    except ConfigError:
        return False
    return name not in activation_graph.normalized
