"""Applying edits to Keras models, and a whole plan to a fresh model.

A `Surgeon` works on its own copy, never on the user's model: activations and weights are changed in place before
anything is traced; for inserted layers, a Sequential or Functional model is rebuilt from its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from autotrainer.backends.keras3.model.copying import has_graph
from autotrainer.backends.keras3.model.layer_graph import LayerGraph
from autotrainer.backends.keras3.model.optimizers import as_optimizer
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.backends.keras3.surgery.editor import Editor
from autotrainer.backends.keras3.surgery.hidden_edits import (
    add_activation,
    add_dropout,
    insert_normalization,
    reinitialize,
    swap_activation,
    thaw_layers,
)
from autotrainer.backends.keras3.surgery.io_edits import (
    add_input_noise,
    lead_padding,
    scale_inputs,
    set_output_activation,
)
from autotrainer.backends.keras3.surgery.optimizer_edits import edited_optimizer
from autotrainer.backends.keras3.surgery.output_wrappers import number_classes, refuse_order, scale_targets
from autotrainer.backends.keras3.surgery.own_step import use_standard_step
from autotrainer.backends.keras3.surgery.precision import raise_precision
from autotrainer.backends.keras3.surgery.regularization_edits import drop_penalties, limit_dropout
from autotrainer.backends.keras3.surgery.resizing import resize_layers, resize_output_layer
from autotrainer.backends.keras3.surgery.several_outputs import scale_each_target
from autotrainer.backends.keras3.surgery.snapshot import unchanged_on_error
from autotrainer.backends.keras3.surgery.structure_edits import add_residual, clip_attention, scale_output_layer
from autotrainer.edits import (
    AddActivation,
    AddDropout,
    AddInputNoise,
    AddResidual,
    ClipAttention,
    DropPenalties,
    Edit,
    InsertNormalization,
    LeadPadding,
    LimitDropout,
    NumberClasses,
    RaisePrecision,
    Reinitialize,
    ResizeLayers,
    ResizeOutputLayer,
    RestoreAxes,
    ScaleEachTarget,
    ScaleInputs,
    ScaleOutputLayer,
    ScaleTargets,
    SetOutputActivation,
    StandardStep,
    SwapActivation,
    SwapOptimizer,
    ThawLayers,
)
from autotrainer.errors import ConfigError

__all__ = ["Surgeon", "apply_edits", "in_order"]

_HANDLERS: Mapping[type[Edit], Callable[[Editor, Any, bool], Edit]] = {
    StandardStep: use_standard_step,
    SwapActivation: swap_activation,
    AddActivation: add_activation,
    Reinitialize: reinitialize,
    RaisePrecision: raise_precision,
    ResizeLayers: resize_layers,
    ResizeOutputLayer: resize_output_layer,
    AddResidual: add_residual,
    ClipAttention: clip_attention,
    ScaleOutputLayer: scale_output_layer,
    InsertNormalization: insert_normalization,
    ThawLayers: thaw_layers,
    LimitDropout: limit_dropout,
    DropPenalties: drop_penalties,
    AddDropout: add_dropout,
    SetOutputActivation: set_output_activation,
    ScaleInputs: scale_inputs,
    AddInputNoise: add_input_noise,
    ScaleTargets: scale_targets,
    ScaleEachTarget: scale_each_target,
    NumberClasses: number_classes,
    LeadPadding: lead_padding,
    RestoreAxes: refuse_order,
}


class Surgeon(Editor):
    """Applies edits to a model."""

    def apply(self, edit: Edit) -> Edit:
        """Apply an edit; one that does not concern the model is ignored.

        Returns:
            The edit, with the numbers that were computed from the data.

        Raises:
            ConfigError: If there is nothing to change, or this model can't be changed like that; the message says why.
        """
        handler = _HANDLERS.get(type(edit))
        if handler is None:
            return edit
        applied = handler(self, edit, True)
        self.graph = LayerGraph(self.model)
        return applied

    def check(self, edit: Edit) -> None:
        """Raise the errors of `apply` without changing anything."""
        handler = _HANDLERS.get(type(edit))
        if handler is not None:
            handler(self, edit, False)


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order in which they are applied.

    Scaling of the inputs comes first, since noise is measured against it, and the width of the output, which other
    edits have to fit; mapping the outputs back to the user's targets comes last.
    """
    first, last = (StandardStep, ScaleInputs, ResizeOutputLayer), (ScaleTargets, ScaleEachTarget, NumberClasses)
    return sorted(edits, key=lambda edit: 0 if isinstance(edit, first) else 2 if isinstance(edit, last) else 1)


def apply_edits(edits: Sequence[Edit], model: Any, optimizer: Any = None) -> tuple[Any, Any]:
    """Apply the edits of a plan to a fresh model.

    Args:
        edits: The edits, with fitted numbers. What belongs to `fit` or `compile` (loss, batch size, plateau,
            early stopping) is ignored.
        model: The model; built, if an edit changes the model. It must not be used afterwards.
        optimizer: A Keras optimizer, or None for that of a compiled model.

    Returns:
        The changed model, to be compiled, and a fresh optimizer (None without an original one).

    Raises:
        ConfigError: If an edit does not fit the model or its optimizer, which then stay as they are.
    """
    template = optimizer if optimizer is not None else getattr(model, "optimizer", None)
    template = None if template is None else as_optimizer(template)
    changes_model = any(type(edit) in _HANDLERS for edit in edits)
    if changes_model and not model.built:
        raise ConfigError(f"model {model.name!r} is not built: give it a keras.Input or call it once first")
    in_place = changes_model and not has_graph(model)
    with unchanged_on_error(model) if in_place else nullcontext():
        if changes_model:
            surgeon = Surgeon(model if in_place else copy_model(model))
            for edit in in_order(edits):
                surgeon.apply(edit)
            model = surgeon.model
        if template is None and not any(isinstance(edit, SwapOptimizer) for edit in edits):
            return model, None
        return model, edited_optimizer(template, edits, model)
