"""A record of one forward pass: which layers ran, through which activations, and statistics of their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from autotrainer.backends.pytorch.layers.modules import InputScaling
from autotrainer.backends.pytorch.model.describe import activation_name, layer_info, watched_modules
from autotrainer.backends.pytorch.model.tensor_origins import TensorOrigin, TensorOrigins
from autotrainer.backends.pytorch.model.weight_patterns import weight_forms, weight_origins
from autotrainer.backends.pytorch.ranks.shards import is_copied, is_spread, is_summand, local_part, whole_rows
from autotrainer.backends.pytorch.runtime.tensors import first_tensor
from autotrainer.backends.pytorch.statistics.normalization import normalization_numbers
from autotrainer.backends.pytorch.statistics.row_layout import RowLayout
from autotrainer.backends.pytorch.statistics.stats import (
    activation_numbers,
    feature_rows,
    input_rows,
    silent_units,
)
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.output import logger
from autotrainer.records.measurement import OUTPUT_COLUMNS, ZERO_REGION
from autotrainer.records.signals import LAYER_COLUMNS, MAX_ROWS, MAX_VALUES, NORM_COLUMNS, LayerInfo

__all__ = ["ALL_COLUMNS", "ForwardRecord"]

ALL_COLUMNS = frozenset(LAYER_COLUMNS)
"""Columns that are measured by default: all."""


class ForwardRecord:
    """A record of the latest forward pass of a model, filled by a subclass that sees inputs and outputs.

    Args:
        model: The model.
        guard: Keeps statistics apart.
        needs: Columns of the layer table to measure.
        modules: What `watched_modules` returns for it, if that is known.
        infos: What `layer_info` returns for each of these, if that is known.
    """

    def __init__(
        self,
        model: nn.Module,
        guard: StatisticGuard,
        *,
        needs: frozenset[str] = ALL_COLUMNS,
        modules: Mapping[str, nn.Module] | None = None,
        infos: Sequence[LayerInfo] | None = None,
    ) -> None:
        self.model, self.guard = model, guard
        self._measures_outputs = not needs.isdisjoint(OUTPUT_COLUMNS)
        self._counts_dormant = "dormant" in needs
        self._measures_norms = not needs.isdisjoint(NORM_COLUMNS)
        self._wants_features = "feature_rank" in needs
        watched = watched_modules(model) if modules is None else modules
        self.names, self.modules = list(watched), list(watched.values())
        self.output_stats: dict[int, tuple[Tensor | None, ...]] = {}
        """What `activation_numbers` has returned, by row."""
        self.silent: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}
        self.normalization: dict[int, Tensor] = {}
        self.features: Tensor | None = None
        """Inputs of the output layer, once `find_output_layer` has found it."""
        self.calls: dict[int, int] = {}
        """Rows called in the last pass, each with its position in the order of calls."""
        self.activations: dict[int, str | None] = {}
        self._unknown: set[int] = set()
        self.reused: set[int] = set()
        """Rows of activation modules that follow several layers: they are treated like functional calls."""
        self.inputs: Tensor | None = None
        self.tokens: Tensor | None = None
        """First rows of the input if they are indices of an embedding."""
        self.input_kind = "unknown"
        self._reads_inputs = True
        self.row_layout = RowLayout()
        self.scales_inputs = any(isinstance(module, InputScaling) for module in model.modules())
        self.batch_size: int | None = None
        self.outputs: Tensor | None = None
        self.output_origin: TensorOrigin | None = None
        self._rows = {id(module): row for row, module in enumerate(self.modules)}
        self._infos = [layer_info(*each) for each in watched.items()] if infos is None else list(infos)
        self._weight_forms = weight_forms(self.modules)
        self._weight_origins = weight_origins(self.modules)
        self._origins = TensorOrigins()
        self._from_torch = [type(module).__module__.startswith("torch.") for module in self.modules]
        self._unit_axes: dict[int, int] = {}
        self._saw_functional = False
        self._first_use: dict[int, tuple[int | None, tuple[Tensor | None, ...] | None]] = {}
        self._output_layer: int | None = None

    def _reset(self) -> None:
        self.output_stats, self.silent, self.attention, self.normalization, self.calls = {}, {}, {}, {}, {}
        self.activations, self._unknown = {}, set()
        self.inputs = self.tokens = self.outputs = self.output_origin = self.features = None
        self._first_use = {}
        self._origins.clear()

    def _is_opaque(self, row: int) -> bool:
        """Return whether calls inside a module are not tracked: activations, and layers of PyTorch itself."""
        kind = self._infos[row].kind
        return kind == "activation" or (kind != "other" and self._from_torch[row])

    def _record_inputs(self, arguments: Any) -> None:
        tensor = first_tensor(arguments, floating=True)
        any_tensor = tensor if tensor is not None else first_tensor(arguments)
        if any_tensor is None:
            return
        self.batch_size = any_tensor.shape[0] if any_tensor.ndim else None
        if tensor is None and any_tensor.dtype is torch.uint8:
            tensor = any_tensor
        self.input_kind = "index" if tensor is None else "values"
        self.row_layout.begin(any_tensor)
        try:
            self.inputs = input_rows(whole_rows(tensor))
            self.tokens = _token_rows(any_tensor) if tensor is None else None
        except (RuntimeError, NotImplementedError) as error:  # a layout or type without such operations
            if self._reads_inputs:
                self._reads_inputs = False
                reason = (str(error).splitlines() or [""])[0][:160]
                logger.warning("the inputs can't be read, everything else is watched: %s", reason)

    def are_inputs(self, targets: Tensor) -> bool:
        """Return whether targets are the inputs, of which the first values are compared."""
        inputs = self.inputs
        if inputs is None or not targets.is_floating_point() or targets.device != inputs.device:
            return False
        given, wanted = inputs.flatten(), targets.flatten()
        if wanted.numel() > given.numel():  # large inputs are copied in part
            rows = input_rows(targets)
            wanted = wanted if rows is None else rows.flatten()
        count = min(given.numel(), wanted.numel())
        return bool(count) and torch.allclose(given[:count].float(), wanted[:count].float(), rtol=1e-3, atol=1e-4)

    def _record_layer(self, row: int, tensor: Tensor, args: Any) -> None:
        info, module = self._infos[row], self.modules[row]
        this_row = frozenset((row,))
        inner = self._origins.get(tensor)
        if inner is not None and not self._is_opaque(row):
            self._saw_functional = True
            activated = inner.activation not in ("linear", None)
            pending = inner.pending if activated else inner.pending | this_row
            self.activations[row] = inner.activation
            origin = replace(inner, layers=inner.layers | this_row, pending=pending, last_layer=row)
        else:
            before = self._origins.get(first_tensor(args)) if info.kind == "norm" else None
            source = before or TensorOrigin()
            pending = frozenset() if info.kind == "recurrent" else source.pending | this_row
            self.activations[row] = info.activation
            origin = TensorOrigin(source.layers | this_row, pending, info.activation, _channel_axis(info, source), row)
        self._origins.set(tensor, origin)
        activation = origin.activation if inner is not None or isinstance(module, nn.RNN | nn.RNNCell) else None
        time_first = info.kind == "recurrent" and not getattr(module, "batch_first", True) and tensor.ndim == 3
        self._store_stats(row, tensor, activation, origin.channel_axis, 1 if time_first else 0)
        if time_first or isinstance(module, nn.MultiheadAttention):
            self.guard.measure("inputs", self.row_layout.see, row, module, first_tensor(args), row=row)
        whole = whole_rows(tensor) if info.kind == "norm" and self._measures_norms else None
        if whole is not None and not is_parametrized(module) and _has_whole_parameters(module):
            numbers = self.guard.measure("normalization", normalization_numbers, module, whole, row=row)
            if numbers is not None:
                self.normalization[row] = numbers

    def _record_activation(self, row: int, tensor: Tensor, args: Any) -> None:
        name = activation_name(self.modules[row])
        source = self._origins.get(first_tensor(args)) or TensorOrigin()
        self.activations[row] = name
        self._assign_activation(source, name)
        if row in self._first_use and self._first_use[row][0] != source.last_layer:
            self.reused.add(row)
            first_layer, first_stats = self._first_use[row]
            if first_layer is not None and first_stats is not None and row in self.output_stats:
                self.output_stats[first_layer] = self.output_stats.pop(row)
                if row in self.silent:
                    self.silent[first_layer] = self.silent.pop(row)
        stats_row = source.last_layer if row in self.reused else row
        if stats_row is not None:
            self._store_stats(stats_row, tensor, name, source.channel_axis, 0)
        self._first_use.setdefault(row, (source.last_layer, self.output_stats.get(row)))
        module = None if row in self.reused else row
        self._origins.set(tensor, replace(source, pending=frozenset(), activation=name, activation_module=module))

    def _record_functional(self, source: TensorOrigin, name: str, output: Tensor) -> None:
        self._saw_functional = True
        if source.pending <= self._unknown:
            return  # part of an activation that is written out
        self._assign_activation(source, name)
        if source.last_layer is not None and output.numel() and output.is_floating_point():
            self.silent.pop(source.last_layer, None)
            activation = name if self.activations.get(source.last_layer) == name else None
            self._store_stats(source.last_layer, output, activation, source.channel_axis, 0)

    def _record_unknown(self, source: TensorOrigin) -> None:
        """Note that an activation may be written out, so that its layers are not linear."""
        self._saw_functional = True
        self._unknown |= {layer for layer in source.pending if self.activations.get(layer) == "linear"}
        self.activations |= dict.fromkeys(source.pending & self._unknown)

    def _assign_activation(self, source: TensorOrigin, name: str | None) -> None:
        """Set the activation of the layers that made a tensor; None if there are several."""
        for layer in source.pending:
            current = self.activations.get(layer)
            gated = name == "silu" and current == "sigmoid"
            several = current not in (name, "linear", None) and not gated
            self.activations[layer] = None if several or layer in self._unknown else name

    def _store_stats(
        self, row: int, tensor: Tensor, activation: str | None, channel_axis: int, batch_axis: int
    ) -> None:
        if not self._measures_outputs or is_summand(tensor):
            return
        tensor = local_part(tensor)
        units = self._unit_axes.setdefault(row, channel_axis) if activation is not None else None
        counted = units if self._counts_dormant else None
        measure = self.guard.measure
        numbers = measure("activations", activation_numbers, tensor, activation, batch_axis, counted, row=row)
        if numbers is not None:
            self.output_stats[row] = numbers
        if activation in ZERO_REGION and units is not None:
            silent = measure("activations", silent_units, tensor, units, row=row)
            if silent is not None:
                self.silent[row] = silent

    # -- layers, from the first pass ------------------------------------------------------------------------------

    def find_output_layer(self, output_rows: list[int]) -> None:
        """Find the last dense layer of those that make the output; its inputs are kept in later passes.

        A layer without any parameters before it does not count: its inputs are the data.
        """
        dense_rows = [row for row in output_rows if self._infos[row].kind == "dense" and row in self.calls]
        output_layer = max(dense_rows, key=self.calls.__getitem__, default=None)
        before = [row for row in self.calls if output_layer is not None and self.calls[row] < self.calls[output_layer]]
        learns = any(next(self.modules[row].parameters(), None) is not None for row in before)
        self._output_layer = output_layer if learns and self._wants_features else None

    def _record_features(self, row: int, args: Any) -> None:
        if row == self._output_layer:
            tensor = whole_rows(first_tensor(args, floating=True))
            self.features = self.guard.measure("features of the output layer", feature_rows, tensor)

    def order(self) -> list[int]:
        """Return the rows in forward order; a row that was not called follows the one defined before it.

        Activation modules that follow several layers are left out: their statistics are in the rows of those layers.
        """
        keys: list[tuple[int, int]] = []
        position = -1
        for row in range(len(self.modules)):
            position = self.calls.get(row, position)
            keys.append((position, row))
        return [row for _, row in sorted(keys) if row not in self.reused]

    def describe(self, order: list[int]) -> tuple[LayerInfo, ...]:
        """Describe the layers by the last pass."""
        origin = self.output_origin
        output_rows: set[int | None] = set() if origin is None else {*origin.layers, origin.activation_module}
        if not output_rows - {None}:
            called = [row for row in order if row in self.calls]
            output_rows = _last_rows(called or order, self._infos)
        infos = []
        for row in order:
            info = layer_info(self.names[row], self.modules[row])
            unseen = None if info.activation == "linear" else info.activation
            activation = self.activations.get(row, unseen)
            if info.kind != "activation" and not self.guard.active("activation functions"):
                activation = None  # calls of functions were not followed
            start, weights = self._weight_forms[row], self._weight_origins[row]
            hidden = row not in output_rows
            infos.append(replace(info, activation=activation, hidden=hidden, start=start, origin=weights))
        return tuple(infos)


def _token_rows(indices: Tensor) -> Tensor | None:
    """Return a copy of the first rows of a batch of indices, shape (rows, steps); None if they have another shape."""
    whole = whole_rows(indices)
    if whole is None or whole.ndim != 2 or not whole.numel():
        return None
    return whole[: max(1, min(MAX_ROWS, MAX_VALUES // whole.shape[1]))].clone()


def _has_whole_parameters(module: nn.Module) -> bool:
    """Return whether this process holds all values of a layer's parameters."""
    return all(not is_spread(p) or is_copied(p) for p in module._parameters.values() if p is not None)


def _channel_axis(info: LayerInfo, source: TensorOrigin) -> int:
    if info.kind == "norm":
        return source.channel_axis
    return 1 if info.kind == "conv" else -1


def _last_rows(rows: list[int], infos: list[LayerInfo]) -> set[int | None]:
    """Return the last row that is not an activation, and the activations after it."""
    output_rows: set[int | None] = set()
    for row in reversed(rows):
        output_rows.add(row)
        if infos[row].kind != "activation":
            break
    return output_rows
