"""Plans edits of activations, weights and inserted layers: what an edit applies to, and what forbids it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from autotrainer.backends.pytorch.layers.modules import make_activation
from autotrainer.backends.pytorch.model.describe import direct_parameters, watched_modules
from autotrainer.backends.pytorch.model.dropout import dropout_rate
from autotrainer.backends.pytorch.model.module_paths import ModulePaths
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph, ActivationNode
from autotrainer.edits import (
    AddActivation,
    AddDropout,
    DropPenalties,
    Edit,
    InsertNormalization,
    LimitDropout,
    NumberClasses,
    Reinitialize,
    ScaleTargets,
    SetOutputActivation,
    SwapActivation,
    ThawLayers,
)

__all__ = ["EditPlanner", "SwapTarget", "plan_result"]

_TRANSFORMERS = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
_HOMOGENEOUS = ("linear", "relu", "leaky_relu", "prelu")
"""Activations with f(c x) = c f(x) for c >= 0: dropout before them equals dropout after them."""


@dataclass(slots=True)
class SwapTarget:
    """An activation that a swap replaces, with the layers that it reinitializes; or layers alone.

    Attributes:
        name: Layer name of the activation, or of a layer whose output goes through it.
        layers: The layers that feed it.
        activation: Whether there is an activation to replace.
        call_numbers: Numbers of the function calls to replace, if it is not a module.
    """

    name: str
    layers: tuple[str, ...]
    activation: bool = True
    call_numbers: tuple[int, ...] = ()


class EditPlanner:
    """Plans edits of one model.

    Args:
        model: The model.
        activation_graph: Its activations before any edit.
        keep: Patterns of layer names that must not be touched.
        class_axis: Axis of the classes in the output, for a softmax.
    """

    def __init__(
        self, model: nn.Module, activation_graph: ActivationGraph, keep: Sequence[str] = (), class_axis: int = -1
    ) -> None:
        self._module_paths = ModulePaths(model, keep)
        self._graph = activation_graph
        self._class_axis = class_axis
        self._nodes: dict[str, ActivationNode] = {}
        for node in activation_graph.nodes:  # several uses of one module are one target
            merged = self._nodes.get(node.name, node)
            feeders = tuple(dict.fromkeys((*merged.feeders, *node.feeders)))
            self._nodes[node.name] = replace(node, feeders=feeders, output=merged.output or node.output)
        self._infos = {info.name: info for info in activation_graph.layers}

    @property
    def model(self) -> nn.Module:
        """The model with the edits applied so far."""
        return self._module_paths.model

    @property
    def activation_graph(self) -> ActivationGraph:
        """The model's activations before any edit."""
        return self._graph

    def plan(self, edit: Edit) -> tuple[tuple[Edit, ...], str]:
        """Return an edit as it can be applied to this model, or why it can't be.

        Returns:
            The edit with the layers that it actually changes (as two edits if these need different ones) and an empty
            string; or no edit and the reason.
        """
        if isinstance(edit, SwapActivation):
            return self._plan_swap(edit)
        if isinstance(edit, Reinitialize):
            names, reasons = self._partition(edit.layers, self._reinitialize_refusal)
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, ThawLayers):
            names, reasons = self._partition(edit.layers or self._owners(), self._thaw_refusal)
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, InsertNormalization):
            return self._plan_normalization(edit)
        if isinstance(edit, AddDropout):
            names, reasons = self._partition(map(self._dropout_name, edit.layers), self._dropout_refusal)
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, AddActivation):
            make_activation(edit.to)
            names, reasons = self._partition(edit.layers, self._activation_refusal)
            return plan_result(names, reasons, lambda n: (replace(edit, layers=n),))
        if isinstance(edit, LimitDropout):
            names, reasons = self._partition(edit.layers or self._dropping(edit.rate), self._module_paths.kept_reason)
            missing = () if names or reasons else (f"no layer has a dropout rate above {edit.rate:g}",)
            return plan_result(names, (*reasons, *missing), lambda n: (replace(edit, layers=n),))
        if isinstance(edit, DropPenalties):
            return (), "penalties of weights are computed by the training's own code"
        if isinstance(edit, SetOutputActivation):
            reason = self._output_refusal(edit)
            return ((), reason) if reason else ((edit,), "")
        if isinstance(edit, ScaleTargets | NumberClasses):
            reason = self._columns_refusal(edit)
            return ((), reason) if reason else ((edit,), "")
        return (edit,), ""

    def _owners(self) -> list[str]:
        return [
            name for name, module in watched_modules(self.model).items() if any(True for _ in direct_parameters(module))
        ]

    def _dropping(self, limit: float) -> list[str]:
        return [name for name in self._module_paths.names if dropout_rate(self._module_paths.module(name)) > limit]

    def _thaw_refusal(self, name: str) -> str:
        if any(parameter.requires_grad for parameter in self.model.parameters()):
            return "parameters that are frozen beside trainable ones are never changed"
        return self._module_paths.kept_weights_reason(name)

    # -- weights and activations --------------------------------------------------------------------------------------

    def _partition(self, names: Iterable[str], refusal: Callable[[str], str]) -> tuple[tuple[str, ...], list[str]]:
        """Return the names that are not refused, each once, and the reasons for the others."""
        accepted: dict[str, None] = {}
        reasons: list[str] = []
        for name in names:
            reason = refusal(name) if name in self._module_paths else f"the model has no layer {name!r}"
            if reason:
                reasons.append(reason)
            else:
                accepted[name] = None
        return tuple(accepted), reasons

    def _reinitialize_refusal(self, name: str) -> str:
        if next(direct_parameters(self._module_paths.module(name)), None) is None:
            return f"`{name}` has no weights"
        return self._module_paths.protection(name)

    def _plan_swap(self, edit: SwapActivation) -> tuple[tuple[Edit, ...], str]:
        make_activation(edit.to)
        targets, reasons = self.swap_targets(edit.layers)
        names: dict[str, None] = {}
        for target in targets:
            names.update(dict.fromkeys(target.layers))
            if target.activation:
                names[target.name] = None
        order = {info.name: index for index, info in enumerate(self._graph.layers)}
        ordered = tuple(sorted(names, key=lambda n: order.get(n, len(order))))
        calls = tuple(sorted({number for target in targets for number in target.call_numbers})) or edit.calls
        return plan_result(ordered, reasons, lambda n: (replace(edit, layers=n, calls=calls),))

    def swap_targets(self, names: Sequence[str]) -> tuple[list[SwapTarget], list[str]]:
        """Return the targets that layer names stand for, and reasons for the names without any."""
        targets: dict[str, SwapTarget] = {}
        reasons: list[str] = []
        for name in names:
            target, reason = self._swap_target(name, names)
            if target is None:
                reasons.append(reason)
                continue
            reason = next(filter(None, map(self._module_paths.protection, (target.name, *target.layers))), "")
            if reason:
                reasons.append(reason)
            else:
                merged = targets.setdefault(target.name, target)
                merged.layers = tuple(dict.fromkeys((*merged.layers, *target.layers)))
        return list(targets.values()), reasons

    def _swap_target(self, name: str, names: Sequence[str]) -> tuple[SwapTarget | None, str]:
        if name not in self._module_paths:
            return None, f"the model has no layer {name!r}"
        behind = next((s.name for s in self._graph.nodes if name in s.feeders), name)
        node = self._nodes.get(name) or self._nodes.get(behind)
        if node is not None:
            if node.output and not self._graph.guessed:
                return None, f"`{node.name}` makes the output: use SetOutputActivation"
            feeders = [f for f in node.feeders if f in names] if self._graph.guessed else node.feeders
            return SwapTarget(node.name, tuple(feeders)), ""
        if self.transformer_of(name) is not None:
            return SwapTarget(name, (name,)), ""
        call_numbers = set(self._graph.call_numbers.get(name, ())) - {self._graph.output_call}
        if call_numbers:
            feeders = tuple(sorted(n for n, other in self._graph.call_numbers.items() if call_numbers & set(other)))
            return SwapTarget(name, feeders, call_numbers=tuple(sorted(call_numbers))), ""
        if name in self._graph.functional:
            return None, f"F.{self._graph.functional[name]} is called inside forward behind `{name}`"
        if isinstance(self._module_paths.module(name), nn.RNNBase | nn.RNNCellBase):
            return None, f"the gates of `{name}` keep their activations"
        has_weights = next(direct_parameters(self._module_paths.module(name)), None) is not None
        if has_weights and (self._graph.guessed or any(other in self._nodes for other in names)):
            return SwapTarget(name, (name,), activation=False), ""  # plans name the layers besides their activations
        return None, f"no activation module follows `{name}`"

    def transformer_of(self, name: str) -> nn.Module | None:
        """Return the transformer layer whose feed-forward activation a layer feeds, or None."""
        parent = next(self._module_paths.parents(name), None)
        feeds_activation = self._module_paths.path(name).endswith("linear1")
        return parent if feeds_activation and isinstance(parent, _TRANSFORMERS) else None

    # -- inserted layers --------------------------------------------------------------------------------------------

    def _plan_normalization(self, edit: InsertNormalization) -> tuple[tuple[Edit, ...], str]:
        if edit.kind not in ("batch", "layer", "group"):
            return (), f"there is no normalization {edit.kind!r}"
        feeders = [feeder for name in edit.layers for feeder in self._feeders_of(name)]
        names, reasons = self._partition(feeders, self._normalization_refusal)
        dense = [name for name in names if self._infos[name].kind == "dense"]
        of_sequences = [name for name in dense if self._graph.ranks.get(name, 2) != 2]
        others = tuple(name for name in names if name not in of_sequences or edit.kind == "layer")
        sequences = tuple(name for name in of_sequences if name not in others)

        def edits(_: tuple[str, ...]) -> tuple[Edit, ...]:
            planned: list[Edit] = [replace(edit, layers=others)] if others else []
            return (*planned, replace(edit, layers=sequences, kind="layer")) if sequences else tuple(planned)

        return plan_result(names, reasons, edits)

    def _feeders_of(self, name: str) -> tuple[str, ...]:
        """Return the layers that feed an activation module; any other name stands for itself."""
        node = self._nodes.get(name)
        return node.feeders if node is not None else (name,)

    def _normalization_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv") or not info.units:
            return f"`{name}` is not a dense or convolutional layer"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        if name in self._graph.normalized:
            return f"`{name}` is normalized already"
        return self._module_paths.closed_reason(name) or self._module_paths.protection(name)

    def _activation_refusal(self, name: str) -> str:
        info = self._infos.get(name)
        if info is None or info.kind not in ("dense", "conv"):
            return f"`{name}` is not a dense or convolutional layer"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        if info.activation != "linear":
            return f"`{name}` has an activation already" if info.activation else f"what follows `{name}` is not known"
        return self._module_paths.closed_reason(name) or self._module_paths.kept_reason(name)

    def _makes_output(self, name: str) -> bool:
        """Return whether a layer's output, or the activation behind it, is the model's output and nothing else."""
        inside = any(name in node.feeders and not node.output for node in self._graph.nodes)
        called = self._graph.functional.get(name, self._graph.output)
        return name in self._graph.output_layers and not inside and called == self._graph.output

    def _dropout_name(self, name: str) -> str:
        """Return the activation module behind a layer, or the name itself."""
        if name in self._nodes:
            return name
        return next((node.name for node in self._graph.nodes if name in node.feeders), name)

    def _dropout_refusal(self, name: str) -> str:
        node, info = self._nodes.get(name), self._infos.get(name)
        if node is not None:
            if node.output and not self._graph.guessed:
                return f"`{name}` makes the output"
            return next(filter(None, map(self._module_paths.kept_reason, (name, *node.feeders))), "")
        if info is None or info.kind in ("recurrent", "attention", "norm", "other"):
            return f"dropout can't be inserted behind `{name}`"
        if self._makes_output(name):
            return f"`{name}` makes the output"
        activation = self._graph.functional.get(name, "linear")
        if activation not in _HOMOGENEOUS:
            return f"F.{activation} is called inside forward behind `{name}`"
        return self._module_paths.closed_reason(name) or self._module_paths.kept_reason(name)

    # -- the output -------------------------------------------------------------------------------------------------

    def output_node(self) -> ActivationNode | None:
        """Return the activation module that makes the output, or None."""
        return next((node for node in self._graph.nodes if node.output), None)

    def _columns_refusal(self, edit: ScaleTargets | NumberClasses) -> str:
        """Return why the numbers of an edit do not fit the columns of the output, as far as these are known."""
        makers = [self._infos[name] for name in self._graph.output_layers if name in self._infos]
        if len(makers) != 1 or makers[0].kind != "dense" or not makers[0].units:
            return ""
        units = getattr(self._module_paths.module(makers[0].name), "out_features", makers[0].units)
        if isinstance(edit, NumberClasses):
            return f"{len(edit.labels)} labels need as many outputs, and it has {units}" * (len(edit.labels) > units)
        fits = len(edit.mean) in (0, 1, units) or units == 1
        return "" if fits else f"it has {units} outputs, and the edit numbers for {len(edit.mean)}"

    def _output_refusal(self, edit: SetOutputActivation) -> str:
        make_activation(edit.to)
        if self._graph.guessed:
            return "the activation of the output is unknown without running the model: its forward depends on the data"
        current, node = self._graph.output, self.output_node()
        if current == edit.to:
            return (
                f"the output goes through {current} already" if current != "linear" else "the output has no activation"
            )
        makers = (*self._graph.output_layers, *(() if node is None else (node.name,)))
        kept = next(filter(None, map(self._module_paths.kept_reason, sorted(makers))), "")
        if kept:
            return kept
        if node is not None:
            uses = [s for s in self._graph.nodes if s.name == node.name]
            return f"`{node.name}` is used inside the model, too" if len(uses) > 1 else ""
        if current is None and edit.to == "linear":
            return "the activation of the output is unknown"
        if current not in (None, "linear") and self._graph.output_call is None:
            return f"F.{current} is called inside forward"
        return ""


def plan_result(
    names: tuple[str, ...], reasons: Sequence[str], edits: Callable[[tuple[str, ...]], tuple[Edit, ...]]
) -> tuple[tuple[Edit, ...], str]:
    """Return the edits for the accepted names, or none and the reasons."""
    if names:
        return edits(names), ""
    return (), "; ".join(dict.fromkeys(reasons)) or "the edit names no layer"
