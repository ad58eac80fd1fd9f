"""Models with several outputs: their losses by name, and edits of single ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.layers.scaled_output import ScaledOutput
from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.surgery.editor import Editor, LayerChanges
from autotrainer.edits import Edit, ScaleEachTarget, ScaleTargets
from autotrainer.errors import ConfigError

__all__ = ["scale_each_target", "scaled_losses"]


def scaled_losses(losses: Any, edit: ScaleEachTarget) -> Any:
    """Return losses by output that compare standardized outputs and targets where an edit says so."""
    changed = {name: (mean, std) for name, mean, std in zip(edit.outputs, edit.mean, edit.std, strict=True)}

    def convert(name: str, loss: Any) -> Any:
        if name not in changed:
            return loss
        mean, std = changed[name]
        return ConvertedLoss(loss, (ScaleTargets((mean,), (std,)),))

    return {name: convert(name, loss) for name, loss in losses.items()}


def scale_each_target(editor: Editor, edit: ScaleEachTarget, apply: bool) -> Edit:
    """Convert outputs that are trained on standardized targets back to the units of these."""
    editor.require_graph("its outputs can't be scaled")
    if len(keras.tree.flatten(editor.model.outputs)) < 2:
        raise ConfigError("the model has a single output")
    layers = dict(_output_layers(editor.model))
    changes = LayerChanges()
    for name, mean, std in zip(edit.outputs, edit.mean, edit.std, strict=True):
        layer = layers.get(name)
        single = isinstance(layer, keras.layers.Layer) and len(layer._inbound_nodes) == 1
        if layer is None or not single or has_graph(layer) or editor.graph.consumers(layer):
            raise ConfigError(f"output {name} is not made by a layer of its own")
        changes.replaced[id(layer)] = ScaledOutput(layer, mean, std, name=layer.name)
    if apply:
        if not edit.outputs:
            raise ConfigError("ScaleEachTarget has no fitted numbers: use the plan of a result, which has them")
        editor.restructure(changes)
    return edit


def _output_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name of each output, by which its loss goes, and the layer that makes it."""
    named = isinstance(model.output, Mapping)
    pairs = model.output.items() if named else zip(model.output_names, keras.tree.flatten(model.output), strict=True)
    for name, tensor in pairs:
        if hasattr(tensor, "_keras_history"):
            yield name, tensor._keras_history.operation
