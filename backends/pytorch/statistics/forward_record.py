"""What a forward pass shows of the layers: which of them ran, through which activations, and with which outputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autotrainer.backends.pytorch.layers.modules import InputScaling
from autotrainer.backends.pytorch.model.describe import activation_name, layer_info, watched_modules
from autotrainer.backends.pytorch.model.functional import Trace, Traces, first_tensor
from autotrainer.backends.pytorch.model.weight_patterns import weight_forms
from autotrainer.backends.pytorch.statistics.stats import (
    activation_numbers,
    feature_rows,
    input_rows,
    silent_units,
)
from autotrainer.records.measurement import OUTPUT_COLUMNS, ZERO_REGION
from autotrainer.records.signals import LAYER_COLUMNS, LayerInfo

__all__ = ["ALL_COLUMNS", "ForwardRecord"]

ALL_COLUMNS = frozenset(LAYER_COLUMNS)
"""What is measured of layers where nobody says what is needed."""


class ForwardRecord:
    """What the latest forward pass of a model has shown. Whoever sees the pass tells of inputs and outputs one by one.

    Args:
        model: The model.
        needs: Columns that are worth measuring: what none of them needs is left out.
    """

    def __init__(self, model: nn.Module, *, needs: frozenset[str] = ALL_COLUMNS) -> None:
        self.model = model
        self._measured = not needs.isdisjoint(OUTPUT_COLUMNS)
        self._dormant = "dormant" in needs
        self._wants_features = "feature_rank" in needs
        self.modules = list(watched_modules(model).values())
        self.numbers: dict[int, Tensor] = {}
        self.silent: dict[int, Tensor] = {}
        self.attention: dict[int, Tensor] = {}
        self.features: Tensor | None = None
        """What enters the output layer, once it is known which one that is: see `find_head`."""
        self.calls: dict[int, int] = {}
        """Rows called in the last pass, each with its place in the order."""
        self.activations: dict[int, str | None] = {}
        self.reused: set[int] = set()
        """Rows of activation modules that follow several layers: they count like functional calls."""
        self.inputs: Tensor | None = None
        self.input_kind = "unknown"
        self.scales_inputs = any(isinstance(module, InputScaling) for module in model.modules())
        self.batch_size: int | None = None
        self.outputs: Tensor | None = None
        self.output_trace: Trace | None = None
        self._names = list(watched_modules(model))
        self._rows = {id(module): row for row, module in enumerate(self.modules)}
        self._infos = [layer_info(name, m) for name, m in zip(self._names, self.modules, strict=True)]
        self._starts = weight_forms(self.modules)
        self._traces = Traces()
        self._plain = [type(module).__module__.startswith("torch.") for module in self.modules]
        self._axes: dict[int, int] = {}
        self._saw_functional = False
        self._first_use: dict[int, tuple[int | None, Tensor | None]] = {}
        self._head: int | None = None

    def _reset(self) -> None:
        self.numbers, self.silent, self.attention, self.calls = {}, {}, {}, {}
        self.activations = {}
        self.inputs = self.outputs = self.output_trace = self.features = None
        self._first_use = {}
        self._traces.clear()

    def _closed(self, row: int) -> bool:
        """Say whether what happens inside a module is of no interest: PyTorch's own, and activations."""
        kind = self._infos[row].kind
        return kind == "activation" or (kind != "other" and self._plain[row])

    def _see_inputs(self, given: Any) -> None:
        tensor = first_tensor(given, floating=True)
        any_tensor = tensor if tensor is not None else first_tensor(given)
        if any_tensor is None:
            return
        self.batch_size = any_tensor.shape[0] if any_tensor.ndim else None
        if tensor is None and any_tensor.dtype is torch.uint8:
            tensor = any_tensor
        self.input_kind = "index" if tensor is None else "values"
        self.inputs = input_rows(tensor)

    def _see_layer(self, row: int, tensor: Tensor, args: Any) -> None:
        """Take in the output of a layer that owns parameters."""
        info, module = self._infos[row], self.modules[row]
        own = frozenset((row,))
        inner = self._traces.get(tensor)
        if inner is not None and not self._closed(row):
            self._saw_functional = True
            activated = inner.activation not in ("linear", None)
            pending = inner.pending if activated else inner.pending | own
            self.activations[row] = inner.activation
            trace = replace(inner, layers=inner.layers | own, pending=pending, maker=row)
        else:
            before = self._traces.get(first_tensor(args)) if info.kind == "norm" else None
            source = before or Trace()
            pending = frozenset() if info.kind == "recurrent" else source.pending | own
            self.activations[row] = info.activation
            trace = Trace(source.layers | own, pending, info.activation, _channel_axis(info, source), row)
        self._traces.set(tensor, trace)
        made = trace.activation if inner is not None or isinstance(module, nn.RNN | nn.RNNCell) else None
        time_first = info.kind == "recurrent" and not getattr(module, "batch_first", True) and tensor.ndim == 3
        self._keep(row, tensor, made, trace.channel_axis, 1 if time_first else 0)

    def _see_activation(self, row: int, tensor: Tensor, args: Any) -> None:
        """Take in the output of an activation module."""
        name = activation_name(self.modules[row])
        source = self._traces.get(first_tensor(args)) or Trace()
        self.activations[row] = name
        self._settle(source, name)
        if row in self._first_use and self._first_use[row][0] != source.maker:
            self.reused.add(row)
            maker, numbers = self._first_use[row]
            if maker is not None and numbers is not None and row in self.numbers:
                self.numbers[maker] = self.numbers.pop(row)
                if row in self.silent:
                    self.silent[maker] = self.silent.pop(row)
        target = source.maker if row in self.reused else row
        if target is not None:
            self._keep(target, tensor, name, source.channel_axis, 0)
        self._first_use.setdefault(row, (source.maker, self.numbers.get(row)))
        made_by = None if row in self.reused else row
        self._traces.set(tensor, replace(source, pending=frozenset(), activation=name, made_by=made_by))

    def _see_function(self, source: Trace, name: str, output: Tensor) -> None:
        """Take in the output of an activation that is called as a function."""
        self._saw_functional = True
        self._settle(source, name)
        if source.maker is not None and output.numel() and output.is_floating_point():
            self.silent.pop(source.maker, None)
            made = name if self.activations.get(source.maker) == name else None
            self._keep(source.maker, output, made, source.channel_axis, 0)

    def _settle(self, source: Trace, name: str | None) -> None:
        """Note which activation the layers that made a tensor go through; None where there are several."""
        for layer in source.pending:
            known = self.activations.get(layer)
            gated = name == "silu" and known == "sigmoid"
            several = known not in (name, "linear", None) and not gated
            self.activations[layer] = None if several else name

    def _keep(self, row: int, tensor: Tensor, activation: str | None, channel_axis: int, batch_axis: int) -> None:
        if not self._measured:
            return
        units = self._axes.setdefault(row, channel_axis) if activation is not None else None
        self.numbers[row] = activation_numbers(tensor, activation, batch_axis, units if self._dormant else None)
        if activation in ZERO_REGION and units is not None:
            self.silent[row] = silent_units(tensor, units)

    # -- what the first pass tells of the layers ------------------------------------------------------------------

    def find_head(self, ends: list[int]) -> None:
        """Note the last dense layer of those that make the output, for its inputs to be kept in the passes to come.

        A model without other layers with parameters before it has none: what enters it are the data.
        """
        heads = [row for row in ends if self._infos[row].kind == "dense" and row in self.calls]
        head = max(heads, key=self.calls.__getitem__, default=None)
        before = [row for row in self.calls if head is not None and self.calls[row] < self.calls[head]]
        learns = any(next(self.modules[row].parameters(), None) is not None for row in before)
        self._head = head if learns and self._wants_features else None

    def _see_features(self, row: int, args: Any) -> None:
        if row == self._head:
            self.features = feature_rows(first_tensor(args, floating=True))

    def order(self) -> list[int]:
        """Return the rows in forward order; a row that was not called follows the one defined before it.

        Activation modules that follow several layers are left out: those layers' own rows have their numbers.
        """
        keys: list[tuple[int, int]] = []
        place = -1
        for row in range(len(self.modules)):
            place = self.calls.get(row, place)
            keys.append((place, row))
        return [row for _, row in sorted(keys) if row not in self.reused]

    def describe(self, order: list[int]) -> tuple[LayerInfo, ...]:
        """Describe the layers as the last pass showed them."""
        trace = self.output_trace
        ends: set[int | None] = set() if trace is None else {*trace.layers, trace.made_by}
        if not ends - {None}:
            called = [row for row in order if row in self.calls]
            ends = _last_layers(called or order, self._infos)
        infos = []
        for row in order:
            info = layer_info(self._names[row], self.modules[row])
            activation = self.activations.get(row, info.activation)
            infos.append(replace(info, activation=activation, hidden=row not in ends, start=self._starts[row]))
        return tuple(infos)


def _channel_axis(info: LayerInfo, source: Trace) -> int:
    if info.kind == "norm":
        return source.channel_axis
    return 1 if info.kind == "conv" else -1


def _last_layers(rows: list[int], infos: list[LayerInfo]) -> set[int | None]:
    """Return the last layer that is no activation, and the activations after it."""
    ends: set[int | None] = set()
    for row in reversed(rows):
        ends.add(row)
        if infos[row].kind != "activation":
            break
    return ends
