"""Recording the tensors of a training step: outputs of layers, gradients, loss, inputs and targets.

Nothing is added to the computation. While a step is traced (or runs eagerly), wrappers on the instances record the
tensors, and the step returns them besides its own result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.engines.functional_attention import (
    fused_tensors,
    record_attention,
    softmax_tensors,
)
from autotrainer.backends.keras3.engines.jax_trace import record_functions, values_of_this_trace
from autotrainer.backends.keras3.engines.modes import Modes
from autotrainer.backends.keras3.engines.patching import RecordingError, observed, patched
from autotrainer.backends.keras3.engines.table_products import TableProducts
from autotrainer.backends.keras3.engines.tensorflow_graph import (
    copy_if_regrouped,
    raise_if_stateful_random,
    tensors_of_this_graph,
)
from autotrainer.backends.keras3.layers.converted_loss import ConvertedLoss
from autotrainer.backends.keras3.model.loss_kinds import LOSS_FUNCTIONS
from autotrainer.backends.keras3.model.losses import compiled_losses, in_output_order
from autotrainer.backends.keras3.model.masks import mask_of
from autotrainer.backends.keras3.model.optimizers import (
    apply_method_name,
    gradients_of_call,
    materialize,
    optimizers_of,
)
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer
from autotrainer.backends.keras3.runtime.called_losses import losses_called
from autotrainer.backends.keras3.runtime.tensorflow_functions import depends_on, operation_of, variable_watcher
from autotrainer.backends.keras3.statistics.attention import attention_tensors, noted_method
from autotrainer.backends.keras3.statistics.embeddings import measures_lookups, takes_indices
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.monitoring.tracebacks import passes_on
from autotrainer.records.measurement import ATTENTION_COLUMNS

__all__ = ["StepRecorder", "batch_of", "paired"]


class StepRecorder:
    """Records the tensors of a training step.

    Args:
        model: The model.
        layers: Its layers.
        guard: Takes exceptions of our own code, by statistic; the step goes on.
        batch_only: Record only inputs and targets, nothing that is computed.
        needs: Columns to measure, None for all: tensors that only other columns need are not recorded.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[WatchedLayer],
        guard: StatisticGuard,
        *,
        batch_only: bool = False,
        needs: frozenset[str] | None = None,
    ) -> None:
        self._batch_only = batch_only
        self._model = model
        self.layers = tuple(layers)
        self._guard = guard
        self._train_step = model.train_step
        self._recorded: dict[str, Any] = {}
        self._layer_inputs: dict[int, Any] = {}
        self._latest: tuple[int, Any] | None = None  # row of the layer that was called last, and its output
        self._products = TableProducts(self.layers, self._product, self._fail("tied weights"))
        self._model_outputs: Any = None
        self._loss_of_outputs: Any = None  # what the compiled losses add up to
        self._own_calls: list[tuple[Any, Any, Any, Any]] = []  # of losses, by a training step of the user's
        self._attending = 0  # calls of attention layers that are going on
        self._last_operation: tuple[str, Any] | None = None  # last function of the JAX engine, and its result
        self._records_features = needs is None or "feature_rank" in needs
        self._records_attention = needs is None or not needs.isdisjoint(ATTENTION_COLUMNS)
        self._records_lookups = measures_lookups(needs)
        self._records_variables = keras.backend.backend() == "tensorflow" and (
            needs is None or "outside_parameters" in needs
        )
        self.calls = 0
        """How many steps were recorded, traced or eager."""
        self.output_row: int | None = None
        """Row of the layer whose output is the output of the model; None if there is none."""
        self.output_operation: str | None = None
        """The engine's name of the operation that computed the model's output."""
        self.order: list[int] = []
        """Rows in the order of calls; that of an embedding also where its table is multiplied by values."""
        self.passed_on: frozenset[int] = frozenset()
        """Rows of the layers whose output another layer has received as it is."""
        self.tied_row: int | None = None
        """Row of the embedding whose table is the weight of the output layer, too; None if there is none."""
        self.applied: list[Any] = []
        """Optimizers that were called with gradients, in this order."""
        self.composite = False
        """Whether the loss is not just that of the recorded outputs: of others as well, with penalties or a factor."""
        self.direct = False
        """Whether the loss received the outputs of the model themselves."""
        self.scaled = False
        """Whether it has the loss of the recorded outputs times a factor."""
        self.output_index = 0
        """Which output of the model is recorded."""
        self.modes = Modes(model)
        """The modes in which the model was called."""
        self.ignores_targets: bool | None = None
        """Whether the loss is proven not to depend on the targets; None if unknown."""
        self.own_loss: Any = None
        """The only loss that a training step of the user's has called by itself; None if there is none."""
        self.variables: tuple[Any, ...] = ()
        """The trainable variables of TensorFlow that the latest call of the model has read."""

    @property
    def misses_gradients(self) -> bool:
        """Whether no optimizer was called with gradients in the recorded step, although there are trainable weights."""
        return not self._batch_only and not self.applied and bool(self._model.trainable_variables)

    @passes_on
    def train_step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Take a training step with the model's ``train_step`` and record its tensors.

        Returns:
            The result of ``train_step``, and the recorded tensors by name: ``loss``, ``inputs``, ``targets``,
            ``outputs``, ``mask`` (of the outputs), ``row_losses`` (of the outputs) and ``row_mask`` (of these),
            ``weights`` (of rows; class weights become such), ``features`` (input of the output layer),
            ``activation:<row>``, ``lookup:<row>`` (indices of an embedding), ``attention:<row>:<name>`` (see
            `attention.attention_tensors`),
            ``gradient:<row>:<weight>`` (with ``:values`` and ``:indices`` if sparse).

        Raises:
            RecordingError: If the step can't be recorded without changing it.
        """
        result: list[Any] = []
        recorded = self.record(passes_on(lambda: result.append(self._train_step(*args, **kwargs))))
        if "inputs" not in recorded:
            batch = self._batch(args[-1])
            recorded.update(batch if self.own_loss is None else {**batch, **recorded})
        if keras.backend.backend() == "jax":
            return result[0], values_of_this_trace(recorded, args)
        if keras.backend.backend() == "tensorflow":
            copies: dict[Any, Any] = {}
            recorded = {key: copy_if_regrouped(value, copies) for key, value in tensors_of_this_graph(recorded).items()}
        return result[0], recorded

    @passes_on
    def record(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Call a function and return the tensors recorded meanwhile, by name."""
        self.begin()
        with nullcontext() if self._batch_only else self.recording():
            run()
        return self.finish()

    def begin(self) -> None:
        """Forget what was recorded before."""
        self.calls += 1
        self._recorded, self._layer_inputs, self.order, self.applied, self._last_operation = {}, {}, [], [], None
        self._latest = self.tied_row = self.own_loss = None
        self._own_calls.clear()
        self.modes.clear()

    def finish(self) -> dict[str, Any]:
        """Return the tensors recorded since `begin`, by name."""
        recorded, self._recorded = self._recorded, {}
        recorded.update(self._guard.measure("calls of the loss", self._own_pair, recorded) or {})
        self._guard.measure("outputs", self._describe_output, recorded)
        received = {id(tensor) for tensor in self._layer_inputs.values()}
        self.passed_on = frozenset(r for r in self.order if id(recorded.get(f"activation:{r}")) in received)
        self._latest = None
        features = self._guard.measure("features of the output layer", self._features)
        if features is not None:
            recorded["features"] = features
        return recorded

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the model, its layers and its optimizers are called with."""
        model = self._model
        with ExitStack() as stack:
            for row, watched in enumerate(self.layers):
                note: Callable[..., None] = functools.partial(self._activation, row)
                arguments = self._records_features and watched.info.kind == "dense"
                arguments = arguments or (self._records_lookups and watched.info.kind == "embedding")
                wrapped = observed(watched.caller.call, note, self._fail("activations", row), arguments=arguments)
                stack.enter_context(patched(watched.caller, "call", wrapped))
                method = noted_method(watched.layer) if self._records_attention else None
                if method is not None:
                    attend = self._alone(getattr(watched.layer, method))
                    note = functools.partial(self._attention, row, inspect.signature(attend))
                    wrapped = observed(attend, note, self._fail("attention", row), arguments=True)
                    stack.enter_context(patched(watched.layer, method, wrapped))
            if self._records_attention:
                stack.enter_context(record_attention(self._fused, self._softmax, self._fail("attention")))
            stack.enter_context(self._products.recording())
            call = self._with_variables(model.call)
            stack.enter_context(patched(model, "call", observed(call, self._output, self._fail("outputs"))))
            stack.enter_context(self.modes.listening(self._fail("modes")))
            self._record_losses(stack)
            if type(model).train_step is not keras.Model.train_step:
                stack.enter_context(losses_called(LOSS_FUNCTIONS, self._own_call, self._fail("calls of the loss")))
            loss = model.compute_loss
            note_loss = functools.partial(self._loss, inspect.signature(loss))
            wrapped = observed(loss, note_loss, self._fail("calls of the loss"), arguments=True)
            stack.enter_context(patched(model, "compute_loss", wrapped))
            for optimizer in optimizers_of(model):
                wrapped = self._wrap_apply(optimizer, getattr(optimizer, apply_method_name()))
                stack.enter_context(patched(optimizer, apply_method_name(), wrapped))
            if keras.backend.backend() == "jax":
                stack.enter_context(record_functions(self._operation, self._fail("activation functions")))
            yield

    def _record_losses(self, stack: ExitStack) -> None:
        """Record the sum of the compiled losses, and the rows of the first one, which may be made in this step."""
        losses = getattr(self._model, "_compile_loss", None)
        if losses is None:
            return
        fail = self._fail("calls of the loss")

        def record_rows(*_: Any) -> None:
            for first in compiled_losses(self._model)[:1]:
                wrapped = observed(first.loss.call, self._row_losses, fail)
                stack.enter_context(patched(first.loss, "call", wrapped))

        stack.enter_context(patched(losses, "call", observed(losses.call, self._compiled_loss, fail)))
        if losses.built:
            record_rows()
        else:
            stack.enter_context(patched(losses, "build", observed(losses.build, record_rows, fail)))

    def _activation(self, row: int, output: Any, *inputs: Any, **_: Any) -> None:
        self.order.append(row)
        if inputs and keras.ops.is_tensor(inputs[0]):
            self._layer_inputs.setdefault(row, inputs[0])
        if isinstance(output, tuple | list):
            output = output[0]
        if keras.ops.is_tensor(output):
            self._latest = row, output
            self._recorded.setdefault(f"activation:{row}", output)
            if inputs and self._records_lookups and takes_indices(self.layers[row], inputs[0], output):
                self._recorded.setdefault(f"lookup:{row}", inputs[0])

    def _product(self, row: int, output: Any, values: Any) -> None:
        """Note the product of values and the table of an embedding: it makes the output, unless layers follow."""
        if "outputs" not in self._recorded:  # else it belongs to the loss
            self.order.append(row)
            self._latest, self._layer_inputs[row] = (row, output), values
            self.tied_row = row

    def _attention(self, row: int, signature: inspect.Signature, _: Any, *args: Any, **kwargs: Any) -> None:
        for name, tensor in attention_tensors(signature, *args, **kwargs).items():
            self._recorded.setdefault(f"attention:{row}:{name}", tensor)

    def _alone(self, attend: Callable[..., Any]) -> Callable[..., Any]:
        """Return the method of an attention layer, within which no functions of attention are recorded."""

        @functools.wraps(attend)
        @passes_on
        def call(*args: Any, **kwargs: Any) -> Any:
            self._attending += 1
            try:
                return attend(*args, **kwargs)
            finally:
                self._attending -= 1

        return call

    def _fused(self, _: Any, query: Any, key: Any, value: Any = None, *args: Any, **kwargs: Any) -> None:
        options = dict(zip(("bias", "mask", "scale", "is_causal"), args, strict=False), **kwargs)
        self._note_attention(fused_tensors, query, key, **options)

    def _softmax(self, _: Any, x: Any, *args: Any, **kwargs: Any) -> None:
        self._note_attention(softmax_tensors, x, *args, **kwargs)

    def _note_attention(self, tensors: Callable[..., dict[str, Any]], *args: Any, **kwargs: Any) -> None:
        if not self._attending:
            outputs = {row: self._recorded.get(f"activation:{row}") for row in self.order[-3:]}
            for name, tensor in tensors(self.layers, outputs, self.order, *args, **kwargs).items():
                self._recorded.setdefault(name, tensor)

    def _features(self) -> Any:
        """Return the input of the output layer: of the last one but norms, if layers with weights come before it."""
        rows = [row for row in self.order if self.layers[row].info.kind not in ("norm", "activation")]
        last = rows[-1] if rows else None
        before = any(self.layers[row].weights for row in rows if row != last)
        return None if last is None or not before else self._layer_inputs.get(last)

    def _with_variables(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call of the model, which notes the variables that it reads."""
        watcher = self._guard.measure("weights", variable_watcher) if self._records_variables else None
        if watcher is None:
            return call

        @functools.wraps(call)
        @passes_on
        def watched(*args: Any, **kwargs: Any) -> Any:
            with variable_watcher() as watcher:
                result = call(*args, **kwargs)
            self.variables = watcher.watched_variables()
            return result

        return watched

    def _output(self, output: Any) -> None:
        self._model_outputs = output
        self._recorded.update(paired(None, output))
        raise_if_stateful_random(self._model)

    def _loss(self, signature: inspect.Signature, loss: Any, *args: Any, **kwargs: Any) -> None:
        arguments = signature.bind(*args, **kwargs).arguments
        self._note("inputs", arguments.get("x"))
        self._note("weights", arguments.get("sample_weight"))
        targets, outputs = arguments.get("y"), arguments.get("y_pred")
        if keras.backend.backend() == "tensorflow" and arguments.get("sample_weight") is None:
            self._guard.measure("calls of the loss", self._trace_targets, targets, outputs, loss)
        if isinstance(self._model.loss, ConvertedLoss):
            targets, outputs = self._model.loss.taken(targets, outputs)
        losses = compiled_losses(self._model)
        self._recorded.update(paired(targets, outputs, losses[0].path if losses else (), self._model))
        flat = keras.tree.flatten(outputs)
        self.output_index = next((i for i, each in enumerate(flat) if each is self._recorded.get("outputs")), 0)
        self._note("mask", mask_of(self._recorded.get("outputs")))
        self._note("loss", loss)
        self.direct = arguments.get("y_pred") is self._model_outputs
        self.scaled = bool(losses) and losses[0].loss_weights not in (None, 1)
        self.composite = bool(losses) and (len(losses) > 1 or self.scaled or loss is not self._loss_of_outputs)
        self._loss_of_outputs = self._model_outputs = None

    def _own_call(self, *call: Any) -> None:
        self._own_calls.append(call)

    def _own_pair(self, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """Return outputs and targets of the only loss that a step of the user's calls, and its rows.

        What else is part of its objective is not known.
        """
        calls, self._own_calls = self._own_calls, []
        if "loss" in recorded or len(calls) != 1:
            return {}
        loss, targets, outputs, value = calls[0]
        pair = paired(targets, outputs, model=self._model)
        if not {"targets", "outputs"} <= pair.keys() or not keras.ops.is_tensor(value):
            return {}
        self.own_loss, self.composite = loss, True
        self.direct = pair["outputs"] is recorded.get("outputs")
        return {**pair, "row_losses": value}

    def _trace_targets(self, targets: Any, outputs: Any, loss: Any) -> None:
        targets, outputs = ([v for v in keras.tree.flatten(s) if keras.ops.is_tensor(v)] for s in (targets, outputs))
        if self._model.losses:  # given by `add_loss`: they may take the same values another way
            return
        depends = depends_on(loss, targets, beyond=outputs)
        self.ignores_targets = None if depends is None else not depends

    def _row_losses(self, losses: Any) -> None:
        if "row_losses" not in self._recorded:
            self._note("row_losses", losses)
            self._note("row_mask", mask_of(losses))

    def _compiled_loss(self, loss: Any) -> None:
        self._loss_of_outputs = loss

    def _batch(self, data: Any) -> dict[str, Any]:
        """Return inputs and targets of a batch, for a training step that does not call ``compute_loss``."""
        return self._guard.measure("inputs", batch_of, data) or {}

    def _fail(self, statistic: str, row: int | None = None) -> Callable[[Exception], None]:
        """Return what takes an exception of the code that records the tensors of a statistic."""
        return functools.partial(self._guard.fail, statistic, row=row)

    def _describe_output(self, recorded: Mapping[str, Any]) -> None:
        output = recorded.get("outputs")
        rows = [row for row in self.order if recorded.get(f"activation:{row}") is output]
        if self._latest is not None and self._latest[1] is output:
            rows.append(self._latest[0])
        self.output_row = rows[-1] if rows and output is not None else None
        if self.output_row is None and self.tied_row is None and self._latest is not None and output is not None:
            table = self._products.unseen(output, self._latest[1])
            if table is not None:
                self.order.append(table)
                self.tied_row, self._layer_inputs[table] = table, self._latest[1]
        last = next((row for row in reversed(self.order) if self.layers[row].info.kind != "norm"), None)
        self.tied_row = self.tied_row if last == self.tied_row else None
        node = getattr(output, "grad_fn", None)  # torch
        name = None if node is None else type(node).__name__.removesuffix("Backward0")
        if keras.backend.backend() == "tensorflow" and output is not None:
            operation = operation_of(output)
            name = None if operation is None else operation.type
        if self._last_operation is not None and self._last_operation[1] is output:  # JAX
            name = self._last_operation[0]
        self.output_operation = name

    def _operation(self, name: str, output: Any) -> None:
        if "outputs" not in self._recorded:  # else it belongs to the loss
            self._last_operation = name, output

    def _note(self, key: str, value: Any) -> None:
        self._recorded.update(_first(key, value))

    def _wrap_apply(self, optimizer: Any, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        @passes_on
        def apply(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tuple(map(materialize, args)), {name: materialize(value) for name, value in kwargs.items()}
            try:
                self._gradients(*gradients_of_call(optimizer, args, kwargs))
                self.applied.append(optimizer)
                raise_if_stateful_random(self._model)  # before the optimizer creates its variables
            except RecordingError:
                raise
            except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
                self._guard.fail("gradients", error)
            return original(*args, **kwargs)

        return apply

    def _gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        keys = {}
        for row, watched in enumerate(self.layers):
            for index, weight in enumerate(watched.weights):
                keys[id(weight)] = f"gradient:{row}:{index}"
                if keras.backend.backend() != "jax":  # its variables hold no values while it trains
                    keys[id(weight.value)] = keys[id(weight)]
        for gradient, variable in zip(gradients, variables, strict=False):
            key = keys.get(id(variable))
            if key is None or gradient is None:
                continue
            if hasattr(gradient, "indices") and hasattr(gradient, "values") and hasattr(gradient, "dense_shape"):
                self._recorded[f"{key}:values"], self._recorded[f"{key}:indices"] = gradient.values, gradient.indices
            else:
                self._recorded[key] = gradient


def batch_of(data: Any) -> dict[str, Any]:
    """Return the first tensor of the inputs and of the targets of a batch, as ``inputs`` and ``targets``."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return _first("inputs", x) | _first("targets", y)


def _first(key: str, value: Any) -> dict[str, Any]:
    """Return a dict with the first tensor of a structure; empty if there is none."""
    tensors = (t for t in keras.tree.flatten(value) if keras.ops.is_tensor(t) or isinstance(t, np.ndarray))
    first = next(tensors, None)
    return {} if first is None else {key: first}


def paired(targets: Any, outputs: Any, path: Sequence[Any] = (), model: Any = None) -> dict[str, Any]:
    """Return an output that has a target, as ``outputs``, and that target, as ``targets``.

    There are no ``outputs`` if it is unclear which of several outputs belongs to the targets.

    Args:
        targets: Targets of a batch, of any structure.
        outputs: Outputs of the model, of any structure.
        path: Keys and indices that lead to the output; empty for the first one that has a target.
        model: The model, which knows the names of outputs that it returns as a list.
    """
    if isinstance(outputs, list | tuple):
        targets = in_output_order(targets, model)
    if isinstance(targets, Mapping) and isinstance(outputs, Mapping):
        names = [*path[:1], *sorted(targets, key=str)]
        name = next((name for name in names if name in targets and name in outputs), None)
        targets, outputs = targets.get(name), outputs.get(name)
    flat_targets, flat_outputs = (
        [v for v in keras.tree.flatten(values) if hasattr(v, "shape") and hasattr(v, "dtype")]
        for values in (targets, outputs)
    )
    position = path[0] if len(path) == 1 and isinstance(path[0], int) else 0
    if 0 < position < len(flat_outputs) and isinstance(outputs, list | tuple):
        if len(flat_targets) == len(outputs) == len(flat_outputs):
            return {"targets": flat_targets[position], "outputs": flat_outputs[position]}
        if len(flat_targets) == 1:  # the only output with a loss
            return {"targets": flat_targets[0], "outputs": flat_outputs[position]}
    pair = {"targets": flat_targets[0]} if flat_targets else {}
    if len(flat_outputs) == 1 or (flat_outputs and len(flat_outputs) == len(flat_targets)):
        pair["outputs"] = flat_outputs[0]
    return pair
