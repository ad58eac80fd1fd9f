"""Recording what flows through one training step: outputs of layers, gradients, loss, inputs and targets.

Nothing is added to the computation. While a step is traced (or runs eagerly), wrappers on the instances note the
tensors that pass, and the step gives them out besides its own result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np

from autotrainer.backends.keras3.engines.jax_trace import noting_functions, of_this_trace
from autotrainer.backends.keras3.engines.modes import Modes
from autotrainer.backends.keras3.engines.patching import noting, patched
from autotrainer.backends.keras3.engines.tensorflow_graph import (
    UnobservableError,
    apart,
    of_this_graph,
    operation_of,
    raise_if_random,
)
from autotrainer.backends.keras3.model.masks import mask_of
from autotrainer.backends.keras3.model.optimizers import applies, given_gradients, kept, optimizers_of
from autotrainer.backends.keras3.model.parts import Part
from autotrainer.backends.keras3.statistics.attention import ATTENTION_COLUMNS, attention_tensors, noted_method

__all__ = ["StepRecorder", "batch_of", "paired"]


class StepRecorder:
    """Notes the tensors of a training step.

    Args:
        model: The model.
        parts: Its layers.
        fail: Takes an exception of our own code; the step goes on.
        batch_only: Note inputs and targets, and nothing that is computed.
        needs: Columns that are worth measuring, None for all: what only others need is not noted.
    """

    def __init__(
        self,
        model: Any,
        parts: Sequence[Part],
        fail: Callable[[Exception], None],
        *,
        batch_only: bool = False,
        needs: frozenset[str] | None = None,
    ) -> None:
        self._batch_only = batch_only
        self._model = model
        self.parts = tuple(parts)
        self._fail = fail
        self._own_step = model.train_step
        self._seen: dict[str, Any] = {}
        self._entered: dict[int, Any] = {}
        self._made: tuple[str, Any] | None = None  # the last function of the JAX engine, and its output
        self._sees_features = needs is None or "feature_rank" in needs
        self._sees_attention = needs is None or not needs.isdisjoint(ATTENTION_COLUMNS)
        self.calls = 0
        """How often a step was recorded: traced, or taken eagerly."""
        self.output_row: int | None = None
        """Row of the layer whose output is the model's output as it is, if there is one."""
        self.output_operation: str | None = None
        """Name of the operation that made the model's output, as the engine calls it."""
        self.order: list[int] = []
        """Rows in the order in which their layers were last called."""
        self.applied: list[Any] = []
        """Optimizers that took gradients, in the order in which they did."""
        self.weighted = False
        """Whether the loss was given weights of rows, as class weights become."""
        self.modes = Modes(model)
        """Whether the model was called in training mode."""

    @property
    def misses_gradients(self) -> bool:
        """Whether no optimizer was given gradients in the step recorded, although there is something to train."""
        return not self._batch_only and not self.applied and bool(self._model.trainable_variables)

    def train_step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Take a training step as the model does.

        Returns:
            What the model's own ``train_step`` returns, and the tensors recorded, by name: ``loss``, ``inputs``,
            ``targets``, ``outputs``, ``mask`` (of the outputs), ``features`` (what enters the output layer),
            ``activation:<row>``, ``attention:<row>:<name>`` (see `attention.attention_tensors`),
            ``gradient:<row>:<weight>`` (with ``:values`` and ``:indices`` if sparse).

        Raises:
            UnobservableError: If the step can't be recorded without changing it.
        """
        result: list[Any] = []
        seen = self.record(lambda: result.append(self._own_step(*args, **kwargs)))
        if "inputs" not in seen:
            seen.update(self._batch(args[-1]))
        if keras.backend.backend() == "jax":
            return result[0], of_this_trace(seen, args)
        if keras.backend.backend() == "tensorflow":
            known: dict[Any, Any] = {}
            seen = {key: apart(value, known) for key, value in of_this_graph(seen).items()}
        return result[0], seen

    def record(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Call a function and return the tensors that passed meanwhile, by name."""
        self.calls += 1
        self._seen, self._entered, self.order, self.applied, self._made = {}, {}, [], [], None
        self.modes.clear()
        with nullcontext() if self._batch_only else self._recording():
            run()
        seen, self._seen = self._seen, {}
        self._describe_output(seen)
        features = self._features()
        if features is not None:
            seen["features"] = features
        return seen

    @contextmanager
    def _recording(self) -> Iterator[None]:
        model = self._model
        with ExitStack() as stack:
            for row, part in enumerate(self.parts):
                note: Callable[..., None] = functools.partial(self._activation, row)
                arguments = self._sees_features and part.info.kind == "dense"
                noted = noting(part.caller.call, note, self._fail, arguments=arguments)
                stack.enter_context(patched(part.caller, "call", noted))
                method = noted_method(part.layer) if self._sees_attention else None
                if method is not None:
                    own = getattr(part.layer, method)
                    note = functools.partial(self._attention, row, inspect.signature(own))
                    stack.enter_context(patched(part.layer, method, noting(own, note, self._fail, arguments=True)))
            stack.enter_context(patched(model, "call", noting(model.call, self._output, self._fail)))
            stack.enter_context(self.modes.listening(self._fail))
            loss = model.compute_loss
            note_loss = functools.partial(self._loss, inspect.signature(loss))
            stack.enter_context(patched(model, "compute_loss", noting(loss, note_loss, self._fail, arguments=True)))
            for optimizer in optimizers_of(model):
                noted = self._applying(optimizer, getattr(optimizer, applies()))
                stack.enter_context(patched(optimizer, applies(), noted))
            if keras.backend.backend() == "jax":
                stack.enter_context(noting_functions(self._operation, self._fail))
            yield

    def _activation(self, row: int, output: Any, *inputs: Any, **_: Any) -> None:
        self.order.append(row)
        if inputs and keras.ops.is_tensor(inputs[0]):
            self._entered.setdefault(row, inputs[0])
        if isinstance(output, tuple | list):
            output = output[0]
        if keras.ops.is_tensor(output):
            self._seen.setdefault(f"activation:{row}", output)

    def _attention(self, row: int, known: inspect.Signature, _: Any, *args: Any, **kwargs: Any) -> None:
        for name, tensor in attention_tensors(known, *args, **kwargs).items():
            self._seen.setdefault(f"attention:{row}:{name}", tensor)

    def _features(self) -> Any:
        """Return what entered the output layer: the last dense one, if others with weights come before it."""
        rows = [row for row in self.order if self.parts[row].info.kind not in ("norm", "activation")]
        last = rows[-1] if rows else None
        before = any(self.parts[row].weights for row in rows if row != last)
        return None if last is None or not before else self._entered.get(last)

    def _output(self, output: Any) -> None:
        self._seen.update(paired(None, output))
        raise_if_random(self._model)

    def _loss(self, signature: inspect.Signature, loss: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        self._note("inputs", given.get("x"))
        self.weighted = given.get("sample_weight") is not None
        targets, outputs = given.get("y"), given.get("y_pred")
        taken = getattr(self._model.loss, "taken", None)  # a loss that converts them for the one inside of it
        self._seen.update(paired(*((targets, outputs) if taken is None else taken(targets, outputs))))
        self._note("mask", mask_of(self._seen.get("outputs")))
        self._note("loss", loss)

    def _batch(self, data: Any) -> dict[str, Any]:
        """Return inputs and targets of a batch, for a training step that does not compute its loss through Keras."""
        try:
            return batch_of(data)
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)
            return {}

    def _describe_output(self, seen: Mapping[str, Any]) -> None:
        output = seen.get("outputs")
        rows = [row for row in self.order if seen.get(f"activation:{row}") is output]
        self.output_row = rows[-1] if rows and output is not None else None
        made_by = getattr(output, "grad_fn", None)  # torch
        name = None if made_by is None else type(made_by).__name__.removesuffix("Backward0")
        if keras.backend.backend() == "tensorflow" and output is not None:
            operation = operation_of(output)
            name = None if operation is None else operation.type
        if self._made is not None and self._made[1] is output:  # JAX
            name = self._made[0]
        self.output_operation = name

    def _operation(self, name: str, output: Any) -> None:
        if "outputs" not in self._seen:  # else it belongs to the loss
            self._made = name, output

    def _note(self, key: str, value: Any) -> None:
        self._seen.update(_first(key, value))

    def _applying(self, optimizer: Any, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def apply(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tuple(map(kept, args)), {name: kept(value) for name, value in kwargs.items()}
            try:
                self._gradients(*given_gradients(optimizer, args, kwargs))
                self.applied.append(optimizer)
                raise_if_random(self._model)  # later on the optimizer may make its variables
            except UnobservableError:
                raise
            except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
                self._fail(error)
            return own(*args, **kwargs)

        return apply

    def _gradients(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        places = {}
        for row, part in enumerate(self.parts):
            for place, weight in enumerate(part.weights):
                places[id(weight)] = f"gradient:{row}:{place}"
                if keras.backend.backend() != "jax":  # whose variables hold nothing while it trains
                    places[id(weight.value)] = places[id(weight)]
        for gradient, variable in zip(gradients, variables, strict=False):
            key = places.get(id(variable))
            if key is None or gradient is None:
                continue
            if hasattr(gradient, "indices") and hasattr(gradient, "values") and hasattr(gradient, "dense_shape"):
                self._seen[f"{key}:values"], self._seen[f"{key}:indices"] = gradient.values, gradient.indices
            else:
                self._seen[key] = gradient


def batch_of(data: Any) -> dict[str, Any]:
    """Return the first of the ``inputs`` and of the ``targets`` of what a training step is given."""
    x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    return _first("inputs", x) | _first("targets", y)


def _first(key: str, value: Any) -> dict[str, Any]:
    """Return the first tensor of a structure, by this name; empty if there is none."""
    found = next((t for t in keras.tree.flatten(value) if keras.ops.is_tensor(t) or isinstance(t, np.ndarray)), None)
    return {} if found is None else {key: found}


def paired(targets: Any, outputs: Any) -> dict[str, Any]:
    """Return the first output that has a target, as ``outputs``, and that target, as ``targets``.

    Of several outputs none is taken where it can't be told which of them the targets are for.
    """
    if isinstance(targets, Mapping) and isinstance(outputs, Mapping):
        name = next((name for name in sorted(targets, key=str) if name in outputs), None)
        targets, outputs = targets.get(name), outputs.get(name)
    found_targets, found_outputs = (
        [v for v in keras.tree.flatten(values) if hasattr(v, "shape") and hasattr(v, "dtype")]
        for values in (targets, outputs)
    )
    found = {"targets": found_targets[0]} if found_targets else {}
    if len(found_outputs) == 1 or (found_outputs and len(found_outputs) == len(found_targets)):
        found["outputs"] = found_outputs[0]
    return found
