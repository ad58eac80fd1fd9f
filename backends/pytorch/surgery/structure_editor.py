"""Applies edits of the structure of a model: widths, residual connections, the output layer, attention."""

from __future__ import annotations

from torch import nn

from autotrainer.backends.pytorch.layers.cosine_attention import CosineAttention
from autotrainer.backends.pytorch.layers.functional_patch import Rerouted
from autotrainer.backends.pytorch.layers.modules import Residual, Wrapper, make_activation
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationNode
from autotrainer.backends.pytorch.surgery.reinitialize import reinitialize, scale_weights
from autotrainer.backends.pytorch.surgery.resizing import resize_output, set_inputs, set_outputs
from autotrainer.backends.pytorch.surgery.structure_planner import StructurePlanner
from autotrainer.edits import (
    AddResidual,
    ClipAttention,
    Edit,
    ResizeLayers,
    ResizeOutputLayer,
    ScaleOutputLayer,
    initializer_for,
)

__all__ = ["StructureEditor"]


class StructureEditor(StructurePlanner):
    """Applies edits of the structure to one model."""

    def restructure(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned, if it is one of the structure.

        Raises:
            ConfigError: If it turns out not to fit.
        """
        if isinstance(edit, ResizeLayers):
            self._resize(edit)
        elif isinstance(edit, ResizeOutputLayer):
            resize_output(self._module_paths.module(edit.layers[0]), edit.units)
            for name, width in zip(edit.followers, edit.inputs, strict=True):
                set_inputs(self._module_paths.module(name), width)
        elif isinstance(edit, AddResidual):
            for name in edit.layers:
                self._add_residual(name)
        elif isinstance(edit, ScaleOutputLayer):
            for name in edit.layers:
                scale_weights(self._module_paths.module(name), edit.factor)
        elif isinstance(edit, ClipAttention):
            self._bound_attention(edit)

    def _resize(self, edit: ResizeLayers) -> None:
        for name, units in zip(edit.layers, edit.units, strict=True):
            set_outputs(self._module_paths.module(name), units)
        for name, width in zip(edit.followers, edit.inputs, strict=True):
            set_inputs(self._module_paths.module(name), width)
        for name in dict.fromkeys((*edit.layers, *edit.followers)):
            info = self._infos.get(name)
            reinitialize(self._module_paths.module(name), initializer_for(None if info is None else info.activation))

    # -- residual connections -----------------------------------------------------------------------------------------

    def _add_residual(self, name: str) -> None:
        """Put a layer and its activation into a residual block."""
        node, _ = self.activation_of(name)
        new_name = f"{name}.activation"
        if isinstance(node, ActivationNode):
            path = self._module_paths.path(node.name)
            activation = self.model.get_submodule(path)
            self._module_paths.replace(path, nn.Identity())
            self._module_paths.rename(node.name, new_name)
        elif isinstance(node, int):
            function = self._graph.functional[name]
            activation = self._functional_patch().activation_at(node) or make_activation(function)
            self.replace_call(node, function, nn.Identity())
            self.relocated_calls[node] = new_name
        else:
            activation = make_activation(str(node))
            shared = next(node.name for node in self._graph.nodes if name in node.feeders)
            self.duplicated_nodes[shared] = (*self.duplicated_nodes.get(shared, ()), new_name)
        self._module_paths.enclose(name, lambda layer: Residual(layer, activation))

    # -- attention ----------------------------------------------------------------------------------------------------

    def _bound_attention(self, edit: ClipAttention) -> None:
        for name in edit.layers:
            module = self._module_paths.module(name)
            if isinstance(module, nn.MultiheadAttention):
                CosineAttention.bound(module, edit.limit)
                self.disable_fast_paths(name)
        for number in edit.calls:
            self._functional_patch().limits[number] = edit.limit

    def disable_fast_paths(self, name: str) -> None:
        """Keep transformer layers around a layer from bypassing their submodules in evaluation mode."""
        for parent in self._module_paths.parents(name):
            if isinstance(parent, nn.TransformerEncoderLayer):
                parent.activation_relu_or_gelu = 0
            elif isinstance(parent, nn.TransformerEncoder):
                parent.use_nested_tensor = False

    # -- the model as a whole -----------------------------------------------------------------------------------------

    def replace_call(self, number: int, activation: str | None, instead: nn.Module) -> None:
        """Replace an activation that is called as a function inside ``forward``."""
        self._functional_patch().reroute(number, activation, instead)

    def _functional_patch(self) -> Rerouted:
        """Return the wrapper that replaces function calls of the model; put one around the model if there is none."""
        inner = self.model
        while isinstance(inner, Wrapper) and not isinstance(inner, Rerouted):
            inner = inner.module
        if isinstance(inner, Rerouted):
            return inner
        patch = Rerouted(self.model)
        self.wrap(patch)
        return patch

    def wrap(self, wrapper: nn.Module) -> None:
        """Put the whole model into a wrapper."""
        device = next((p.device for p in self.model.parameters()), None)
        wrapper._buffers.update({k: b.to(device) for k, b in wrapper._buffers.items() if b is not None})
        wrapper.training = self.model.training
        self._module_paths.replace("", wrapper)
