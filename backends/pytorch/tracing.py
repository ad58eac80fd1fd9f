"""Hooks a model for single forward passes and reduces what its layers put out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.describe import activation_name, layer_info, watched_modules
from autotrainer.backends.pytorch.functional import FunctionalCalls, Trace, Traces, first_tensor
from autotrainer.backends.pytorch.initial import weight_forms
from autotrainer.backends.pytorch.modules import InputScaling
from autotrainer.backends.pytorch.stats import ZERO_REGION, activation_numbers, input_rows, silent_units
from autotrainer.signals import LayerInfo

__all__ = ["ForwardTracer", "Hook", "is_compiled"]


class Hook(functools.partial[None]):
    """A hook that stays behind when the module that has it is copied or saved.

    A copy gets ``contextlib.nullcontext().__exit__`` in its place: a callable of the standard library that does
    nothing, so that what is saved can be loaded where autotrainer is not installed. Called at the speed of C.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (nullcontext(), "__exit__")


def is_compiled(model: nn.Module) -> bool:
    """Say whether a model is a script, or `torch.compile` has had a hand in any part of it: it takes no hooks then."""
    if isinstance(model, torch.jit.ScriptModule):
        return True
    return any(type(m).__name__ == "OptimizedModule" or m._compiled_call_impl is not None for m in model.modules())


class ForwardTracer:
    """Sees forward passes of a model from `arm` to `disarm`.

    While armed, only the root has hooks; the layers have them during a forward pass of the root alone. A model whose
    root is never called is seen with ``by_parts``: its layers then have hooks as long as it is armed.

    Args:
        model: The model.
        fail: Called with what went wrong in a hook; nothing is ever raised into the model.
        always: See passes without gradients too.
    """

    def __init__(self, model: nn.Module, fail: Callable[[Exception], None], *, always: bool = False) -> None:
        self.model = model
        self.modules = list(watched_modules(model).values())
        self.by_parts = False
        self.seconds = 0.0
        """Time that the hooks have taken since it was last set to zero."""
        self.numbers: dict[int, Tensor] = {}
        self.silent: dict[int, Tensor] = {}
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
        self._fail = fail
        self._always = always
        self._names = list(watched_modules(model))
        self._rows = {id(module): row for row, module in enumerate(self.modules)}
        self._infos = [layer_info(name, m) for name, m in zip(self._names, self.modules, strict=True)]
        self._starts = weight_forms(self.modules)
        self._traces = Traces()
        self._calls = FunctionalCalls(self._traces, self._on_functional, fail)
        self._plain = [type(module).__module__.startswith("torch.") for module in self.modules]
        self._axes: dict[int, int] = {}
        self._functional = True
        self._saw_functional = False
        self._in_pass = False
        self._entered = False
        self._first_use: dict[int, tuple[int | None, Tensor | None]] = {}
        self._handles: list[RemovableHandle] = []
        self._layer_handles: list[RemovableHandle] = []

    # -- attach and detach ----------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Get ready for forward passes; what an earlier one left is dropped."""
        self.disarm()
        self._reset()
        pre = self.model.register_forward_pre_hook(Hook(self._enter_root), with_kwargs=True)
        post = self.model.register_forward_hook(Hook(self._leave_root), with_kwargs=True, always_call=True)
        self._handles = [pre, post]
        if self.by_parts:
            self._hook_layers()

    def disarm(self) -> None:
        """Remove every hook."""
        self._end_pass()
        for handle in (*self._handles, *self._layer_handles):
            handle.remove()
        self._handles, self._layer_handles = [], []

    def forget(self) -> None:
        """Drop what the last pass left, tensors above all."""
        self._reset()

    def _reset(self) -> None:
        self.numbers, self.silent, self.calls = {}, {}, {}
        self.activations = {}
        self.inputs = self.outputs = self.output_trace = None
        self._first_use = {}
        self._traces.clear()
        self._calls.muted = 0

    def _hook_layers(self) -> None:
        enter, leave = Hook(self._enter_layer), Hook(self._leave_layer)
        for module in self.modules:
            if module is not self.model and not isinstance(module, torch.jit.ScriptModule):
                self._layer_handles.append(module.register_forward_pre_hook(enter))
                self._layer_handles.append(module.register_forward_hook(leave))

    def _end_pass(self) -> None:
        self._in_pass = False
        if self._entered:
            self._entered = False
            self._calls.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if not self.by_parts:
            for handle in self._layer_handles:
                handle.remove()
            self._layer_handles = []

    # -- hooks ----------------------------------------------------------------------------------------------------

    def _enter_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if module is not self.model or torch.compiler.is_compiling():
            return
        if not (self._always or torch.is_grad_enabled()):
            return
        started = perf_counter()
        try:
            self._end_pass()
            self._reset()
            self._in_pass = True
            with torch.no_grad():
                self._see_inputs((args, kwargs))
            if not self.by_parts:
                self._hook_layers()
            row = self._rows.get(id(module))
            if row is not None:
                self.calls[row] = 0
            if self._functional:
                self._calls.__enter__()  # type: ignore[no-untyped-call]
                self._entered = True
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    def _leave_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if module is not self.model or not self._in_pass:
            return
        started = perf_counter()
        try:
            self._end_pass()
            with torch.no_grad():
                tensor = first_tensor(output, floating=True)
                row = self._rows.get(id(module))
                if row is not None and tensor is not None:
                    self._see_layer(row, tensor, args)
                self.outputs = None if tensor is None else tensor.detach()
                self.output_trace = self._traces.get(tensor)
            self._traces.clear()
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    def _enter_layer(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        row = self._rows.get(id(module))
        if row is None or torch.compiler.is_compiling():
            return
        self.calls.setdefault(row, len(self.calls))
        if self._closed(row):
            self._calls.muted += 1

    def _closed(self, row: int) -> bool:
        """Say whether what happens inside a module is of no interest: PyTorch's own, and activations."""
        kind = self._infos[row].kind
        return kind == "activation" or (kind != "other" and self._plain[row])

    def _leave_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        row = self._rows.get(id(module))
        if row is None or torch.compiler.is_compiling():
            return
        started = perf_counter()
        if self._closed(row):
            self._calls.muted -= 1
        if not (self._always or torch.is_grad_enabled()):
            return
        try:
            tensor = first_tensor(output, floating=True)
            if tensor is not None and tensor.numel():
                with torch.no_grad(), torch._C.DisableTorchFunction():
                    if self.by_parts and self.inputs is None and self.input_kind == "unknown":
                        self._see_inputs(args)
                    if self._infos[row].kind == "activation":
                        self._see_activation(row, tensor, args)
                    else:
                        self._see_layer(row, tensor, args)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    # -- what is seen ---------------------------------------------------------------------------------------------

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

    def _on_functional(self, source: Trace, name: str, output: Tensor) -> None:
        started = perf_counter()
        self._saw_functional = True
        with torch.no_grad():
            self._settle(source, name)
            if source.maker is not None and output.numel() and output.is_floating_point():
                self.silent.pop(source.maker, None)
                made = name if self.activations.get(source.maker) == name else None
                self._keep(source.maker, output, made, source.channel_axis, 0)
        self.seconds += perf_counter() - started

    def _settle(self, source: Trace, name: str | None) -> None:
        """Note which activation the layers that made a tensor go through; None where there are several."""
        for layer in source.pending:
            known = self.activations.get(layer)
            gated = name == "silu" and known == "sigmoid"
            several = known not in (name, "linear", None) and not gated
            self.activations[layer] = None if several else name

    def _keep(self, row: int, tensor: Tensor, activation: str | None, channel_axis: int, batch_axis: int) -> None:
        self.numbers[row] = activation_numbers(tensor, activation, batch_axis)
        if activation in ZERO_REGION:
            self.silent[row] = silent_units(tensor, self._axes.setdefault(row, channel_axis))

    # -- what the first pass tells of the layers ------------------------------------------------------------------

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

    def settle(self) -> None:
        """Leave functional calls alone from now on if the last pass had none that matter."""
        self._functional = self._saw_functional or bool(self.reused)


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
