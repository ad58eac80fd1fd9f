"""Hooks that record single forward passes of a model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.losses.returned_tensors import Returned, returned_tensors
from autotrainer.backends.pytorch.model.describe import own_parameter
from autotrainer.backends.pytorch.model.tensor_origins import FunctionalCallMode, TensorOrigin
from autotrainer.backends.pytorch.ranks.shards import whole_rows
from autotrainer.backends.pytorch.runtime.hooks import HookHandle, add_hook
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation, paused_collector
from autotrainer.backends.pytorch.runtime.tensors import first_tensor, output_tensor
from autotrainer.backends.pytorch.runtime.torch_private import has_function_transform
from autotrainer.backends.pytorch.statistics.attention import (
    functional_attention,
    module_attention,
    score_attention,
)
from autotrainer.backends.pytorch.statistics.embeddings import EmbeddingStats, takes_indices
from autotrainer.backends.pytorch.statistics.forward_record import ALL_COLUMNS, ForwardRecord
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.lifetime import weak_method
from autotrainer.monitoring.tracebacks import hide_frames
from autotrainer.records.measurement import ATTENTION_COLUMNS, LOOKUP_COLUMNS
from autotrainer.records.signals import LayerInfo

__all__ = ["ForwardTracer"]

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # since PyTorch 2.7


_MOST_RETURNED = 2
"""Calls of the model in a step whose results are kept until a backward pass has been read."""


class ForwardTracer(ForwardRecord):
    """Records forward passes of a model from `arm` to `disarm`.

    While armed, only the root has hooks; the layers get theirs during a forward pass of the root. With ``by_parts``,
    for a model whose root is never called, the layers have hooks as long as it is armed.

    Args:
        model: The model.
        fail: Called with an exception of a hook; nothing is ever raised into the model.
        guard: Measures statistics, so that one that fails is left out alone.
        without_gradients: Record passes without gradients, too.
        needs: Columns of the layer table to measure.
        stopwatch: Measures the time spent in the hooks.
        modules: What `watched_modules` returns for it, if that is known.
        infos: What `layer_info` returns for each of these, if that is known.
    """

    def __init__(
        self,
        model: nn.Module,
        fail: Callable[[Exception], None],
        guard: StatisticGuard,
        *,
        without_gradients: bool = False,
        needs: frozenset[str] = ALL_COLUMNS,
        stopwatch: Stopwatch | None = None,
        modules: Mapping[str, nn.Module] | None = None,
        infos: Sequence[LayerInfo] | None = None,
    ) -> None:
        super().__init__(model, guard, needs=needs, modules=modules, infos=infos)
        self.by_parts = False
        self.compiled = False
        """Whether `torch.compile` has compiled a hook: later passes have none, see `arm`."""
        self.failed = False
        """Whether a hook has raised: later passes have none."""
        self.stopwatch = stopwatch or Stopwatch()
        self.on_result: Callable[[dict[str, Any], Any], None] | None = None
        """Called with the keyword arguments and the result of each pass."""
        self.on_outputs: Callable[[Any], Any] | None = None
        """Called with the result of each pass."""
        self._report_failure = fail
        self._without_gradients = without_gradients
        self._measures_attention = not needs.isdisjoint(ATTENTION_COLUMNS)
        on_attention = weak_method(self._on_attention) if self._measures_attention else None
        on_scores = weak_method(self._on_scores) if self._measures_attention else None
        self._measures_embeddings = not needs.isdisjoint(LOOKUP_COLUMNS)
        self.embeddings = EmbeddingStats(self.names, self.modules, guard)
        self._call_mode = FunctionalCallMode(
            self._origins,
            weak_method(self._on_functional),
            weak_method(self._leave_functions),
            on_attention,
            on_scores,
            weak_method(self._on_lookup) if self._measures_embeddings else None,
            on_unknown=weak_method(self._on_unknown),
            without_gradients=without_gradients,
        )
        self._uses_call_mode = True
        self._latest_row: int | None = None
        self._returned: list[Returned] = []
        self._in_pass = False
        self._call_mode_entered = False
        self._handles: list[HookHandle] = []
        self._layer_handles: list[HookHandle] = []
        self.interrupted = False
        """Whether the hooks were lost before `disarm`, or a pass not recorded: the model was scripted or traced."""
        self.transformed = False
        """Whether the model has ever been called within a transform of `torch.func`, whose tensors hold no values."""

    # -- attach and detach ----------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Hook the model, and drop the record of earlier passes.

        Sets no hooks once a pass was compiled: each change of hooks would cause another compilation.
        """
        self.disarm()
        self.clear()
        self.interrupted = False
        if self.compiled or self.failed:
            return
        pre = add_hook(self.model, self._enter_root, before=True, with_kwargs=True)
        post = add_hook(self.model, self._leave_root, with_kwargs=True, always_call=True)
        self._handles = [pre, post]
        if self.by_parts:
            self._hook_layers()

    def disarm(self) -> None:
        """Remove every hook."""
        self._end_pass()
        self.interrupted |= not all(handle.registered for handle in self._handles)
        for handle in (*self._handles, *self._layer_handles):
            handle.remove()
        self._handles, self._layer_handles = [], []

    def _fail(self, error: Exception) -> None:
        """Record no pass any more."""
        self.failed = True
        self._report_failure(error)

    def clear(self) -> None:
        """Drop the record of the last pass, with its tensors."""
        self._reset()
        self.forget_returned()

    @property
    def returned(self) -> Returned:
        """What the latest calls of the model have returned, by the place in the graph that made it; that of its latest
        layer if its root is never called."""
        return {place: tensor for call in self._returned for place, tensor in call.items()}

    def forget_returned(self) -> None:
        """Drop what calls have returned: it holds their graphs."""
        self._returned = []

    def _reset(self) -> None:
        super()._reset()
        self.embeddings.clear()
        self._call_mode.muted = 0
        self._latest_row = None

    def _hook_layers(self) -> None:
        enter, leave, handles = self._enter_layer, self._leave_layer, self._layer_handles
        with paused_collector():
            for module in self.modules:
                if module is not self.model and not isinstance(module, torch.jit.ScriptModule):
                    handles.append(add_hook(module, enter, before=True))
                    handles.append(add_hook(module, leave))
                    if self._measures_attention and isinstance(module, nn.MultiheadAttention):
                        handles.append(add_hook(module, self._leave_attention, with_kwargs=True))

    def _end_pass(self) -> None:
        self._in_pass = False
        if self._call_mode_entered:
            self._call_mode_entered = False
            self._call_mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if not self.by_parts:
            for handle in self._layer_handles:
                handle.remove()
            self._layer_handles = []

    # -- hooks ----------------------------------------------------------------------------------------------------

    def _note_compilation(self) -> None:
        """Note that a hook is being compiled with the user's code; an export does not count, as it never runs again."""
        if not _is_exporting():
            self.compiled = True

    def _enter_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if is_compiling():
            self._note_compilation()
            return
        if module is not self.model:
            return
        if is_transformed():
            self.interrupted = True
            self.transformed |= has_function_transform()
            return
        with self.stopwatch:
            try:
                with observation() as with_gradients:
                    if not (self._without_gradients or with_gradients):
                        return
                    self._end_pass()
                    self._reset()
                    self._in_pass = True
                    self.guard.measure("inputs", self._record_inputs, (args, kwargs))
                if not self.by_parts:
                    self._hook_layers()
                row = self._rows.get(id(module))
                if row is not None:
                    self.calls[row] = 0
                if self._uses_call_mode:
                    self._call_mode.__enter__()  # type: ignore[no-untyped-call]
                    self._call_mode_entered = True
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)

    def _leave_root(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if is_transformed() or module is not self.model or not self._in_pass:
            return
        with self.stopwatch:
            try:
                self._end_pass()
                hide_frames(sys.exception())  # of the user's forward pass, if there is one
                with observation():
                    tensor = output_tensor(output)
                    row = self._rows.get(id(module))
                    if row is not None and tensor is not None:
                        self._record_layer(row, tensor, args)
                    whole = whole_rows(tensor)
                    self.outputs = None if whole is None else whole.detach()
                    self.output_origin = self._origins.get(tensor)
                    self._returned = [*self._returned, returned_tensors(output)][-_MOST_RETURNED:]
                    self.row_layout.end(self.outputs)
                    if self.on_outputs is not None:
                        self.on_outputs(output)
                    if self.on_result is not None:
                        self.on_result(kwargs, output)
                self._origins.clear()
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)

    def _enter_layer(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if is_compiling():
            self._note_compilation()
            return
        row = self._rows.get(id(module))
        if row is None or is_transformed():
            return
        self.calls.setdefault(row, len(self.calls))
        if self._is_opaque(row):
            self._call_mode.muted += 1

    def _leave_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        row = None if is_transformed() else self._rows.get(id(module))
        if row is None:
            return
        with self.stopwatch:
            self._latest_row = row
            if self._is_opaque(row):
                self._call_mode.muted -= 1
            try:
                with observation() as with_gradients:
                    tensor = first_tensor(output, floating=True) if self._without_gradients or with_gradients else None
                    if tensor is not None and tensor.numel():
                        if self.by_parts:
                            self._returned = [returned_tensors(output)]
                            if self.inputs is None and self.input_kind == "unknown":
                                self.guard.measure("inputs", self._record_inputs, args)
                        activation = self._infos[row].kind == "activation"
                        record = self._record_activation if activation else self._record_layer
                        self.guard.measure("activations", record, row, tensor, args, row=row)
                        self._record_features(row, args)
                        if self._measures_embeddings and takes_indices(module) and args:
                            self.embeddings.record(own_parameter(module, "weight"), args[0])
                        if isinstance(module, nn.Softmax) and self._measures_attention:
                            self._record_softmax(module, first_tensor(args))
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)

    def _leave_attention(
        self, module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if is_transformed():
            return
        with self.stopwatch:
            try:
                with observation() as with_gradients:
                    if not (self._without_gradients or with_gradients):
                        return
                    row = self._rows.get(id(module))
                    self._store_attention(
                        row, partial(module_attention, module, *args, **kwargs, tokens=self._tokens())
                    )
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's forward pass
                self._fail(error)

    def _on_attention(self, source: TensorOrigin | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with self.stopwatch:
            self._saw_functional = True
            measure = partial(functional_attention, *args, **kwargs, tokens=self._tokens())
            self._store_attention(self._attention_row(source), measure)

    def _on_scores(self, origin: TensorOrigin, scores: Tensor) -> None:
        with self.stopwatch:
            self._saw_functional = True
            row = self._latest_row if origin.query_layer is None else origin.query_layer
            self._store_attention(row, partial(score_attention, scores, self._tokens()))

    def _store_attention(self, row: int | None, measure: Callable[[], Tensor | None]) -> None:
        stats = None if row is None else self.guard.measure("attention", measure, row=row)
        if stats is not None and row is not None:
            self.attention[row] = stats

    def _tokens(self) -> list[Tensor]:
        return list(self.embeddings.sequences.values())

    def _record_softmax(self, module: nn.Softmax, scores: Tensor | None) -> None:
        origin = self._origins.get(scores)
        if origin is not None and scores is not None and origin.scores and module.dim in (-1, scores.ndim - 1):
            self._on_scores(origin, scores)

    def _on_lookup(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        indices = args[0] if args else kwargs.get("input")
        weight = args[1] if len(args) > 1 else kwargs.get("weight")
        if isinstance(indices, Tensor) and isinstance(weight, Tensor):
            with self.stopwatch:
                self._saw_functional = True
                self.embeddings.record(weight, indices)

    def _attention_row(self, source: TensorOrigin | None) -> int | None:
        """Return the row that a call of `scaled_dot_product_attention` belongs to."""
        return self._latest_row if source is None or source.last_layer is None else source.last_layer

    def _on_functional(self, source: TensorOrigin, name: str, output: Tensor) -> None:
        with self.stopwatch:
            self._record_functional(source, name, output)

    def _on_unknown(self, source: TensorOrigin) -> None:
        with self.stopwatch:
            self._record_unknown(source)

    def _leave_functions(self, error: Exception) -> None:
        """Follow calls of functions no longer, as that has failed."""
        self.guard.fail("activation functions", error)
        self._uses_call_mode = False
        self.activations.clear()
        self._origins.clear()

    def skip_unused_functional_mode(self) -> None:
        """Do without the function mode from now on if the last pass had no functional calls that matter."""
        used = self._saw_functional or bool(self.reused)
        self._uses_call_mode = used and self.guard.active("activation functions")
