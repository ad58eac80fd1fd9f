"""Edits of models: activations, weights, and layers put in, by the names of layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from autotrainer.backends.pytorch.anatomy import Anatomy
from autotrainer.backends.pytorch.modules import (
    InputNoise,
    InputScaling,
    OutputActivation,
    Wrapper,
    make_activation,
)
from autotrainer.backends.pytorch.optimizers import adopt_parameters, edit_optimizer
from autotrainer.backends.pytorch.redraw import redraw
from autotrainer.backends.pytorch.rerouting import Rerouted
from autotrainer.backends.pytorch.surgery_planning import SurgeryPlanner
from autotrainer.edits import (
    AddDropout,
    AddInputNoise,
    Edit,
    InsertNormalization,
    Reinitialize,
    ScaleInputs,
    SetOutputActivation,
    SwapActivation,
    initializer_for,
)
from autotrainer.errors import ConfigError

__all__ = ["Surgeon", "apply_edits"]


class Surgeon(SurgeryPlanner):
    """Applies edits to one model. Parameters that stay keep their identity, so optimizers over them stay valid."""

    def apply(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned; edits that are not about models do nothing.

        Raises:
            ConfigError: If it does not fit after all.
        """
        if isinstance(edit, SwapActivation):
            for target in self.swap_targets(edit.layers)[0]:
                for number in target.numbers:
                    self._reroute(number, self._anatomy.functional[target.name], make_activation(edit.to))
                if target.activation and not target.numbers:
                    self._replace_activation(target.name, edit.to)
                for name in target.layers if edit.reinitialize else ():
                    redraw(self._places.module(name), initializer_for(edit.to))
        elif isinstance(edit, Reinitialize):
            for name in edit.layers:
                redraw(self._places.module(name), edit.scheme)
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
            self._wrap(InputScaling(self.model, edit.mean, edit.std))
        elif isinstance(edit, AddInputNoise):
            self._wrap(InputNoise(self.model, edit.std))

    def _replace_activation(self, name: str, to: str) -> None:
        path = self._places.path(name)
        parent = self.transformer(name)
        if parent is not None:
            known: dict[str, Any] = {"relu": F.relu, "gelu": F.gelu}
            parent.__dict__.pop("activation", None)
            parent._modules.pop("activation", None)
            parent.activation = known.get(to) or make_activation(to)
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = {"relu": 1, "gelu": 2}.get(to, 0)
            return
        self._places.put(path, make_activation(to))

    def _set_output(self, edit: SetOutputActivation) -> None:
        site = self.output_site()
        activation = make_activation(edit.to, axis=self._class_axis)
        if site is not None:
            self._places.put(self._places.path(site.name), activation)
        elif self._anatomy.output_number is not None:
            self._reroute(self._anatomy.output_number, str(self._anatomy.output), activation)
        elif edit.to != "linear":
            self._wrap(OutputActivation(self.model, activation))

    def _reroute(self, number: int, activation: str, instead: nn.Module) -> None:
        """Replace an activation that is called as a function inside ``forward``."""
        inner = self.model
        while isinstance(inner, Wrapper) and not isinstance(inner, Rerouted):
            inner = inner.module
        if not isinstance(inner, Rerouted):
            self._wrap(Rerouted(self.model))
            inner = self.model
        assert isinstance(inner, Rerouted)
        inner.reroute(number, activation, instead)

    def _wrap(self, wrapper: nn.Module) -> None:
        """Put the whole model into a wrapper."""
        device = next((p.device for p in self.model.parameters()), None)
        wrapper._buffers.update({k: b.to(device) for k, b in wrapper._buffers.items() if b is not None})
        wrapper.training = self.model.training
        self._places.put("", wrapper)


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
    surgeon = Surgeon(model, Anatomy.of(model))
    for edit in edits:
        if isinstance(edit, ScaleInputs) and not edit.mean:
            raise ConfigError("ScaleInputs has no numbers: take the plan of a result, where they are filled in")
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
