"""Edits of the structure of a model: widths, ways past layers, the output layer, attention."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.backends.pytorch.layers.functional_patch import Rerouted
from autotrainer.backends.pytorch.layers.modules import Residual, Wrapper, make_activation
from autotrainer.backends.pytorch.surgery.activation_graph import Site
from autotrainer.backends.pytorch.surgery.reinitialize import redraw, scale_weights
from autotrainer.backends.pytorch.surgery.resizing import set_inputs, set_outputs
from autotrainer.backends.pytorch.surgery.structure_planning import StructurePlanner
from autotrainer.edits import AddResidual, ClipAttention, Edit, ResizeLayers, ScaleOutputLayer, initializer_for

__all__ = ["StructureSurgeon"]


class StructureSurgeon(StructurePlanner):
    """Applies edits of the structure to one model."""

    def restructure(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned, if it is one of the structure.

        Raises:
            ConfigError: If it does not fit after all.
        """
        if isinstance(edit, ResizeLayers):
            self._resize(edit)
        elif isinstance(edit, AddResidual):
            for name in edit.layers:
                self._lead_past(name)
        elif isinstance(edit, ScaleOutputLayer):
            for name in edit.layers:
                scale_weights(self._places.module(name), edit.factor)
        elif isinstance(edit, ClipAttention):
            self._bound_attention(edit)

    def _resize(self, edit: ResizeLayers) -> None:
        for name, units in zip(edit.layers, edit.units, strict=True):
            set_outputs(self._places.module(name), units)
        for name, width in zip(edit.followers, edit.inputs, strict=True):
            set_inputs(self._places.module(name), width)
        for name in dict.fromkeys((*edit.layers, *edit.followers)):
            info = self._infos.get(name)
            redraw(self._places.module(name), initializer_for(None if info is None else info.activation))

    # -- ways past layers ---------------------------------------------------------------------------------------------

    def _lead_past(self, name: str) -> None:
        """Lead the input of a layer past it and its activation, which goes inside with it."""
        found, _ = self.activation_of(name)
        inside = f"{name}.activation"
        if isinstance(found, Site):
            path = self._places.path(found.name)
            activation = self.model.get_submodule(path)
            self._places.put(path, nn.Identity())
            self._places.move(found.name, inside)
        elif isinstance(found, int):
            called = self._anatomy.functional[name]
            activation = self._rerouted().activation_at(found) or make_activation(called)
            self.reroute(found, called, nn.Identity())
            self.inside[found] = inside
        else:
            activation = make_activation(str(found))
            site = next(site.name for site in self._anatomy.sites if name in site.feeders)
            self.beside[site] = (*self.beside.get(site, ()), inside)
        self._places.enclose(name, lambda layer: Residual(layer, activation))

    # -- attention ----------------------------------------------------------------------------------------------------

    def _bound_attention(self, edit: ClipAttention) -> None:
        for name in edit.layers:
            module = self._places.module(name)
            if isinstance(module, nn.MultiheadAttention):
                CosineAttention.bound(module, edit.limit)
                self.close_fast_paths(name)
        for number in edit.calls:
            self._rerouted().limits[number] = edit.limit

    def close_fast_paths(self, name: str) -> None:
        """Keep transformer layers from computing what is inside them by code of their own, in evaluation."""
        for parent in self._places.parents(name):
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = 0
            elif isinstance(parent, nn.TransformerEncoder):
                parent.use_nested_tensor = False

    # -- the model as a whole -----------------------------------------------------------------------------------------

    def reroute(self, number: int, activation: str | None, instead: nn.Module) -> None:
        """Replace an activation that is called as a function inside ``forward``."""
        self._rerouted().reroute(number, activation, instead)

    def _rerouted(self) -> Rerouted:
        """Return what replaces calls inside the model: it is put around it where there is none."""
        inner = self.model
        while isinstance(inner, Wrapper) and not isinstance(inner, Rerouted):
            inner = inner.module
        if isinstance(inner, Rerouted):
            return inner
        made = Rerouted(self.model)
        self.wrap(made)
        return made

    def wrap(self, wrapper: nn.Module) -> None:
        """Put the whole model into a wrapper."""
        device = next((p.device for p in self.model.parameters()), None)
        wrapper._buffers.update({k: b.to(device) for k, b in wrapper._buffers.items() if b is not None})
        wrapper.training = self.model.training
        self._places.put("", wrapper)
