"""Edits of models: activations, weights, and layers put in, by the names of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from autotrainer.backends.pytorch.layers.modules import (
    InputNoise,
    InputScaling,
    LabelColumns,
    OutputActivation,
    TargetScaling,
    make_activation,
)
from autotrainer.backends.pytorch.optim.optimizers import adopt_parameters, edit_optimizer
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.reinitialize import redraw
from autotrainer.backends.pytorch.surgery.structure_surgery import StructureSurgeon
from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    Edit,
    InsertNormalization,
    NumberClasses,
    RaisePrecision,
    Reinitialize,
    ScaleInputs,
    ScaleTargets,
    SetOutputActivation,
    SwapActivation,
    initializer_for,
)
from autotrainer.errors import ConfigError

__all__ = ["Surgeon", "apply_edits", "in_order"]


class Surgeon(StructureSurgeon):
    """Applies edits to one model. Parameters that stay keep their identity, so optimizers over them stay valid."""

    def apply(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned; edits that are not about models do nothing.

        Raises:
            ConfigError: If it does not fit after all.
        """
        if isinstance(edit, SwapActivation):
            for target in self.swap_targets(edit.layers)[0]:
                for number in target.numbers:
                    self._replace_call(number, target.name, edit.to)
                if target.activation and not target.numbers:
                    self._replace_activation(target.name, edit.to)
                for name in target.layers if edit.reinitialize else ():
                    redraw(self._places.module(name), initializer_for(edit.to))
            for number in edit.calls if self._anatomy.guessed else ():
                self.reroute(number, None, make_activation(edit.to))
        elif isinstance(edit, Reinitialize):
            for name in edit.layers:
                redraw(self._places.module(name), edit.scheme)
        elif isinstance(edit, RaisePrecision):
            self.model.float()
        elif isinstance(edit, InsertNormalization):
            for name in edit.layers:
                self._places.follow(name, _normalization(self._places.module(name), edit.kind))
        elif isinstance(edit, AddDropout):
            for name in edit.layers:
                selu = isinstance(self._places.module(name), nn.SELU)
                self._places.follow(name, nn.AlphaDropout(edit.rate) if selu else nn.Dropout(edit.rate))
        elif isinstance(edit, SetOutputActivation):
            self._set_output(edit)
        elif isinstance(edit, ScaleInputs):
            self.wrap(InputScaling(self.model, edit.mean, edit.std))
        elif isinstance(edit, AddInputNoise):
            self.wrap(InputNoise(self.model, edit.std))
        elif isinstance(edit, ScaleTargets):
            self.wrap(TargetScaling(self.model, edit.mean, edit.std))
        elif isinstance(edit, NumberClasses):
            self.wrap(LabelColumns(self.model, edit.labels, self._class_axis, edit.fill))
        else:
            self.restructure(edit)

    def _replace_activation(self, name: str, to: str) -> None:
        path = self._places.path(name)
        parent = self.transformer(name)
        if parent is not None:
            known: dict[str, Any] = {"relu": F.relu, "gelu": F.gelu}
            parent.__dict__.pop("activation", None)
            parent._modules.pop("activation", None)
            parent.activation = known.get(to) or make_activation(to)
            if isinstance(parent, nn.TransformerEncoderLayer):
                code = {"relu": 1, "gelu": 2}.get(to, 0) if parent.activation_relu_or_gelu else 0
                parent.activation_relu_or_gelu = code
                if not code:
                    self.close_fast_paths(name)
            return
        self._places.put(path, make_activation(to))
        for inside in self.beside.get(name, ()):
            self._places.put(self._places.path(inside), make_activation(to))

    def _replace_call(self, number: int, layer: str, to: str) -> None:
        if number in self.inside:
            self._places.put(self._places.path(self.inside[number]), make_activation(to))
        else:
            self.reroute(number, self._anatomy.functional[layer], make_activation(to))

    def _set_output(self, edit: SetOutputActivation) -> None:
        site = self.output_site()
        activation = make_activation(edit.to, axis=self._class_axis)
        if site is not None:
            self._places.put(self._places.path(site.name), activation)
        elif self._anatomy.output_number is not None:
            self.reroute(self._anatomy.output_number, str(self._anatomy.output), activation)
        elif edit.to != "linear":
            self.wrap(OutputActivation(self.model, activation))


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order in which they are applied: what puts outputs back into the user's terms comes last."""
    return sorted(edits, key=lambda edit: isinstance(edit, ScaleTargets | NumberClasses))


def apply_edits(edits: Sequence[Edit], model: nn.Module, optimizer: Optimizer | None) -> tuple[nn.Module, Any]:
    """Apply the edits of a plan to a fresh model and the optimizer over its parameters.

    Edits that belong to the loop (loss, batch size, clipping, schedule, early stopping) do nothing here.

    Args:
        edits: The edits, with fitted numbers filled in.
        model: The fresh model; not to be used further.
        optimizer: The optimizer over its parameters; changed; or None.

    Returns:
        The changed model and optimizer.

    Raises:
        ConfigError: If an edit can't be applied to this model or optimizer.
    """
    before = list(model.parameters())
    surgeon = Surgeon(model, ActivationGraph.of(model))
    for edit in in_order(edits):
        unfitted = isinstance(edit, ScaleInputs | ScaleTargets) and not edit.mean
        if unfitted or (isinstance(edit, NumberClasses) and not edit.labels):
            raise ConfigError(
                f"{type(edit).__name__} has no numbers: take the plan of a result, where they are filled in"
            )
        planned, reason = surgeon.plan(edit)
        if reason:
            raise ConfigError(f"{type(edit).__name__} can't be applied to this model: {reason}")
        for one in planned:
            surgeon.apply(one)
    model = surgeon.model
    if optimizer is not None:
        adopt_parameters(optimizer, model, before)
        return model, edit_optimizer(optimizer, model, edits)
    return model, optimizer


def _normalization(layer: nn.Module, kind: str) -> nn.Module:
    """Return the normalization for the output of a dense or convolutional layer."""
    if isinstance(layer, nn.Linear):
        if kind == "group":
            return nn.GroupNorm(_groups(layer.out_features), layer.out_features)
        return nn.LayerNorm(layer.out_features) if kind == "layer" else nn.BatchNorm1d(layer.out_features)
    channels, dimensions = int(layer.out_channels), len(layer.kernel_size)  # type: ignore[arg-type]
    if kind != "batch":
        return nn.GroupNorm(1 if kind == "layer" else _groups(channels), channels)
    return (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1](channels)


def _groups(channels: int) -> int:
    """Return the largest number of groups up to 8 that divides the channels."""
    return next(groups for groups in range(8, 0, -1) if channels % groups == 0)
