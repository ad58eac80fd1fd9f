"""Hooks a model for single forward passes."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.backends.pytorch.model.functional import FunctionalCalls, Trace, first_tensor
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook
from autotrainer.backends.pytorch.statistics.attention import ATTENTION_COLUMNS, functional_attention, module_attention
from autotrainer.backends.pytorch.statistics.forward_record import ALL_COLUMNS, ForwardRecord
from autotrainer.records.signals import LAYER_COLUMNS

__all__ = ["ForwardTracer"]

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since PyTorch 2.7


class ForwardTracer(ForwardRecord):
    """Sees forward passes of a model from `arm` to `disarm`.

    While armed, only the root has hooks; the layers have them during a forward pass of the root alone. A model whose
    root is never called is seen with ``by_parts``: its layers then have hooks as long as it is armed.

    Args:
        model: The model.
        fail: Called with what went wrong in a hook; nothing is ever raised into the model.
        always: See passes without gradients too.
        needs: Columns that are worth measuring: what none of them needs is left out.
    """

    def __init__(
        self,
        model: nn.Module,
        fail: Callable[[Exception], None],
        *,
        always: bool = False,
        needs: frozenset[str] = ALL_COLUMNS,
    ) -> None:
        super().__init__(model, needs=needs)
        self.by_parts = False
        self.traced = False
        """Whether `torch.compile` has met a hook: there is none in the passes after that one, see `arm`."""
        self.seconds = 0.0
        """Time that the hooks have taken since it was last set to zero."""
        self._fail = fail
        self._always = always
        self._attends = any(LAYER_COLUMNS[column] in needs for column in ATTENTION_COLUMNS)
        self._calls = FunctionalCalls(
            self._traces, self._on_functional, fail, self._on_attention if self._attends else None
        )
        self._functional = True
        self._latest: int | None = None
        self._in_pass = False
        self._entered = False
        self._handles: list[HookHandle] = []
        self._layer_handles: list[HookHandle] = []

    # -- attach and detach ----------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Get ready for forward passes; what an earlier one left is dropped.

        Does no more than that once a pass was compiled: hooks that come and go would have it compiled again and again.
        """
        self.disarm()
        self._reset()
        if self.traced:
            return
        pre = add_hook(self.model, self._enter_root, before=True, with_kwargs=True)
        post = add_hook(self.model, self._leave_root, with_kwargs=True, always_call=True)
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
        super()._reset()
        self._calls.muted = 0
        self._latest = None

    def _hook_layers(self) -> None:
        for module in self.modules:
            if module is not self.model and not isinstance(module, torch.jit.ScriptModule):
                self._layer_handles.append(add_hook(module, self._enter_layer, before=True))
                self._layer_handles.append(add_hook(module, self._leave_layer))
                if self._attends and isinstance(module, nn.MultiheadAttention):
                    self._layer_handles.append(add_hook(module, self._leave_attention, with_kwargs=True))

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

    def _note_tracing(self) -> None:
        """Note that a hook is being compiled with the user's code; an export leaves nothing that would run again."""
        if not _is_exporting():
            self.traced = True

    def _enter_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_compiling():
            self._note_tracing()
            return
        if module is not self.model:
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
        if is_compiling() or module is not self.model or not self._in_pass:
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
        if is_compiling():
            self._note_tracing()
            return
        row = self._rows.get(id(module))
        if row is None:
            return
        self.calls.setdefault(row, len(self.calls))
        if self._closed(row):
            self._calls.muted += 1

    def _leave_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if is_compiling():
            return
        row = self._rows.get(id(module))
        if row is None:
            return
        started = perf_counter()
        self._latest = row
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
                    self._see_features(row, args)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    def _leave_attention(
        self, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if is_compiling() or not (self._always or torch.is_grad_enabled()):
            return
        started = perf_counter()
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():
                found = module_attention(module, *args, **kwargs)
                row = self._rows.get(id(module))
                if found is not None and row is not None:
                    self.attention[row] = found
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
            self._fail(error)
        self.seconds += perf_counter() - started

    def _on_attention(self, maker: Trace | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not (self._always or torch.is_grad_enabled()):
            return
        started = perf_counter()
        self._saw_functional = True
        row = self._attending(maker)
        with torch.no_grad():
            found = functional_attention(*args, **kwargs)
        if found is not None and row is not None:
            self.attention[row] = found
        self.seconds += perf_counter() - started

    def _attending(self, maker: Trace | None) -> int | None:
        """Return the row that a call of `scaled_dot_product_attention` counts for."""
        return self._latest if maker is None or maker.maker is None else maker.maker

    def _on_functional(self, source: Trace, name: str, output: Tensor) -> None:
        started = perf_counter()
        with torch.no_grad():
            self._see_function(source, name, output)
        self.seconds += perf_counter() - started

    def settle(self) -> None:
        """Leave functional calls alone from now on if the last pass had none that matter."""
        self._functional = self._saw_functional or bool(self.reused)
