"""Applies edits to a model: activations, weights, inserted layers, input and output wrappers, structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from autotrainer.backends.pytorch.layers.modules import (
    ColumnScaling,
    InputNoise,
    InputScaling,
    LabelColumns,
    OutputActivation,
    make_activation,
    target_scaling,
)
from autotrainer.backends.pytorch.layers.rearranged import LeadingPadding, RestoredAxes
from autotrainer.backends.pytorch.model.describe import direct_parameters
from autotrainer.backends.pytorch.model.dropout import set_dropout_rate
from autotrainer.backends.pytorch.optim.optimizers import (
    adopt_parameters,
    edit_optimizer,
    owns,
    parameter_shapes,
)
from autotrainer.backends.pytorch.surgery.activation_graph import ActivationGraph
from autotrainer.backends.pytorch.surgery.reinitialize import reinitialize
from autotrainer.backends.pytorch.surgery.snapshot import unchanged_on_error
from autotrainer.backends.pytorch.surgery.structure_editor import StructureEditor
from autotrainer.edits import (
    AddActivation,
    AddDropout,
    AddInputNoise,
    Edit,
    InsertNormalization,
    LeadPadding,
    LimitDropout,
    NumberClasses,
    RaisePrecision,
    Reinitialize,
    ResizeOutputLayer,
    RestoreAxes,
    ScaleInputs,
    ScaleTargets,
    SetOutputActivation,
    SwapActivation,
    ThawLayers,
    initializer_for,
)
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError
from autotrainer.training.data_edits import check_fitted

__all__ = ["ModelEditor", "apply_edits", "in_order"]


class ModelEditor(StructureEditor):
    """Applies edits to one model. Remaining parameters keep their identity, so optimizers over them stay valid."""

    def apply(self, edit: Edit) -> None:
        """Apply an edit that `plan` returned; edits that do not concern models do nothing.

        Raises:
            ConfigError: If it turns out not to fit.
        """
        if isinstance(edit, SwapActivation):
            for target in self.swap_targets(edit.layers)[0]:
                for number in target.call_numbers:
                    self._swap_call(number, target.name, edit.to)
                if target.activation and not target.call_numbers:
                    self._swap_activation(target.name, edit.to)
                for name in target.layers if edit.reinitialize else ():
                    reinitialize(self._module_paths.module(name), initializer_for(edit.to))
            for number in edit.calls if self._graph.guessed else ():
                self.replace_call(number, None, make_activation(edit.to))
        elif isinstance(edit, Reinitialize):
            for name in edit.layers:
                reinitialize(self._module_paths.module(name), edit.scheme)
        elif isinstance(edit, ThawLayers):
            for name in edit.layers:
                for parameter in direct_parameters(self._module_paths.module(name)):
                    parameter.requires_grad_(parameter.is_floating_point())
        elif isinstance(edit, RaisePrecision):
            self.model.float()
        elif isinstance(edit, InsertNormalization):
            for name in edit.layers:
                self._module_paths.insert_after(name, _normalization(self._module_paths.module(name), edit.kind))
        elif isinstance(edit, AddDropout):
            for name in edit.layers:
                selu = isinstance(self._module_paths.module(name), nn.SELU)
                self._module_paths.insert_after(name, nn.AlphaDropout(edit.rate) if selu else nn.Dropout(edit.rate))
        elif isinstance(edit, AddActivation):
            for name in edit.layers:
                self._module_paths.insert_after(name, make_activation(edit.to))
        elif isinstance(edit, LimitDropout):
            for name in edit.layers:
                set_dropout_rate(self._module_paths.module(name), edit.rate)
        elif isinstance(edit, SetOutputActivation):
            self._set_output(edit)
        elif isinstance(edit, ScaleInputs):
            self.wrap(_input_scaling(self.model, edit))
        elif isinstance(edit, LeadPadding):
            check_fitted(edit)
            self.wrap(LeadingPadding(self.model, edit.token or 0))
        elif isinstance(edit, RestoreAxes):
            self.wrap(RestoredAxes(self.model))
        elif isinstance(edit, AddInputNoise):
            self.wrap(InputNoise(self.model, edit.std))
        elif isinstance(edit, ScaleTargets):
            self.wrap(target_scaling(self.model, edit))
        elif isinstance(edit, NumberClasses):
            self.wrap(LabelColumns(self.model, edit.labels, self._class_axis, edit.fill))
        else:
            self.restructure(edit)

    def _swap_activation(self, name: str, to: str) -> None:
        path = self._module_paths.path(name)
        parent = self.transformer_of(name)
        if parent is not None:
            functions: dict[str, Any] = {"relu": F.relu, "gelu": F.gelu}
            parent.__dict__.pop("activation", None)
            parent._modules.pop("activation", None)
            parent.activation = functions.get(to) or make_activation(to)
            if isinstance(parent, nn.TransformerEncoderLayer):
                fast_path_code = {"relu": 1, "gelu": 2}.get(to, 0) if parent.activation_relu_or_gelu else 0
                parent.activation_relu_or_gelu = fast_path_code
                if not fast_path_code:
                    self.disable_fast_paths(name)
            return
        self._module_paths.replace(path, make_activation(to))
        for duplicate in self.duplicated_nodes.get(name, ()):
            self._module_paths.replace(self._module_paths.path(duplicate), make_activation(to))

    def _swap_call(self, number: int, layer: str, to: str) -> None:
        if number in self.relocated_calls:
            self._module_paths.replace(self._module_paths.path(self.relocated_calls[number]), make_activation(to))
        else:
            self.replace_call(number, self._graph.functional[layer], make_activation(to))

    def _set_output(self, edit: SetOutputActivation) -> None:
        node = self.output_node()
        activation = make_activation(edit.to, axis=self._class_axis)
        if node is not None:
            self._module_paths.replace(self._module_paths.path(node.name), activation)
        elif self._graph.output_call is not None:
            self.replace_call(self._graph.output_call, str(self._graph.output), activation)
        elif edit.to != "linear":
            self.wrap(OutputActivation(self.model, activation))


def in_order(edits: Sequence[Edit]) -> list[Edit]:
    """Return edits in the order of application.

    The width of the output comes first, since other edits have to fit it; edits that convert outputs back to the user's
    targets come last.
    """
    return sorted(
        edits,
        key=lambda edit: (
            0 if isinstance(edit, ResizeOutputLayer) else 2 if isinstance(edit, ScaleTargets | NumberClasses) else 1
        ),
    )


def apply_edits(edits: Sequence[Edit], model: nn.Module, optimizer: Optimizer | None) -> tuple[nn.Module, Any]:
    """Apply the edits of a plan to a fresh model and the optimizer over its parameters.

    Edits of the training loop (loss, batch size, clipping, schedule, early stopping) do nothing here.

    Args:
        edits: The edits, with fitted numbers filled in.
        model: The fresh model; not to be used afterwards.
        optimizer: The optimizer over its parameters, which is changed; or None.

    Returns:
        The changed model and optimizer.

    Raises:
        ConfigError: If an edit can't be applied to this model or optimizer, which then stay as they are.
    """
    if optimizer is not None and not (isinstance(optimizer, Optimizer) and owns(optimizer, model)):
        raise ConfigError(
            f"optimizer must be a torch.optim.Optimizer over the model's parameters or None, not {shorten(optimizer)}"
        )
    with unchanged_on_error(model, optimizer):
        before = parameter_shapes(model)
        editor = ModelEditor(model, ActivationGraph.of(model))
        for edit in in_order(edits):
            check_fitted(edit)
            planned, reason = editor.plan(edit)
            if reason:
                raise ConfigError(f"{type(edit).__name__} can't be applied to this model: {reason}")
            for applicable in planned:
                editor.apply(applicable)
        if optimizer is not None:
            adopt_parameters(optimizer, editor.model, before)
            return editor.model, edit_optimizer(optimizer, editor.model, edits)
        return editor.model, None


def _input_scaling(model: nn.Module, edit: ScaleInputs) -> InputScaling:
    if edit.by_column:
        return ColumnScaling(model, edit.mean, edit.std, edit.log_center, edit.log_scale, edit.dropped, edit.missing)
    return InputScaling(model, edit.mean, edit.std)


def _normalization(layer: nn.Module, kind: str) -> nn.Module:
    """Return a normalization for the output of a dense or convolutional layer."""
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
