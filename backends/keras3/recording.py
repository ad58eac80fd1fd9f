"""Recording what flows through one training step: outputs of layers, gradients, loss, inputs and targets.

Nothing is added to the computation. While a step is traced (or runs eagerly), wrappers on the instances note the
tensors that pass, and the step gives them out besides its own result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import keras

from autotrainer.backends.keras3.masks import mask_of
from autotrainer.backends.keras3.parts import Part
from autotrainer.backends.keras3.tensorflow_graph import (
    UnobservableError,
    apart,
    of_this_graph,
    operation_of,
    raise_if_random,
)

__all__ = ["Recorder", "optimizers_of", "paired", "patched"]


@contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set an attribute of an instance past Keras' attribute tracking, and put back what was there."""
    attributes = vars(owner)
    missing = object()
    before = attributes.get(name, missing)
    attributes[name] = value
    try:
        yield
    finally:
        if before is missing:
            attributes.pop(name, None)
        else:
            attributes[name] = before


class Recorder:
    """Notes the tensors of a training step.

    Args:
        model: The model.
        parts: Its layers.
        fail: Takes an exception of our own code; the step goes on.
        batch_only: Note inputs and targets, and nothing that is computed.
    """

    def __init__(
        self, model: Any, parts: Sequence[Part], fail: Callable[[Exception], None], *, batch_only: bool = False
    ) -> None:
        self._batch_only = batch_only
        self._model = model
        self.parts = tuple(parts)
        self._fail = fail
        self._own_step = model.train_step
        self._seen: dict[str, Any] = {}
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

    @property
    def misses_gradients(self) -> bool:
        """Whether no optimizer was given gradients in the step recorded, although there is something to train."""
        return not self._batch_only and not self.applied and bool(self._model.trainable_variables)

    def train_step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Take a training step as the model does.

        Returns:
            What the model's own ``train_step`` returns, and the tensors recorded, by name: ``loss``, ``inputs``,
            ``targets``, ``outputs``, ``mask`` (of the outputs), ``activation:<row>``,
            ``gradient:<row>:<weight>`` (with ``:values`` and ``:indices`` if sparse).

        Raises:
            UnobservableError: If the step can't be recorded without changing it.
        """
        result: list[Any] = []
        seen = self.record(lambda: result.append(self._own_step(*args, **kwargs)))
        if "inputs" not in seen:
            seen.update(self._batch(*args))
        if keras.backend.backend() == "tensorflow":
            known: dict[Any, Any] = {}
            seen = {key: apart(value, known) for key, value in of_this_graph(seen).items()}
        return result[0], seen

    def record(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Call a function and return the tensors that passed meanwhile, by name."""
        self.calls += 1
        self._seen, self.order, self.applied = {}, [], []
        with nullcontext() if self._batch_only else self._recording():
            run()
        seen, self._seen = self._seen, {}
        self._describe_output(seen)
        return seen

    @contextmanager
    def _recording(self) -> Iterator[None]:
        model = self._model
        with ExitStack() as stack:
            for row, part in enumerate(self.parts):
                note = functools.partial(self._activation, row)
                stack.enter_context(patched(part.caller, "call", _noting(part.caller.call, note, self._fail)))
            stack.enter_context(patched(model, "call", _noting(model.call, self._output, self._fail)))
            loss = model.compute_loss
            note_loss = functools.partial(self._loss, inspect.signature(loss))
            stack.enter_context(patched(model, "compute_loss", _noting(loss, note_loss, self._fail, arguments=True)))
            for optimizer in optimizers_of(model):
                stack.enter_context(patched(optimizer, "apply", self._applying(optimizer)))
            yield

    def _activation(self, row: int, output: Any) -> None:
        self.order.append(row)
        if isinstance(output, tuple | list):
            output = output[0]
        if keras.ops.is_tensor(output):
            self._seen.setdefault(f"activation:{row}", output)

    def _output(self, output: Any) -> None:
        self._seen.update(paired(None, output))
        raise_if_random(self._model)

    def _loss(self, signature: inspect.Signature, loss: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        self._note("inputs", given.get("x"))
        self._seen.update(paired(given.get("y"), given.get("y_pred")))
        self._note("mask", mask_of(self._seen.get("outputs")))
        self._note("loss", loss)

    def _batch(self, data: Any) -> dict[str, Any]:
        """Return inputs and targets of a batch, for a training step that does not compute its loss through Keras."""
        self._seen = {}
        try:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            self._note("inputs", x)
            self._note("targets", y)
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            self._fail(error)
        found, self._seen = self._seen, {}
        return found

    def _describe_output(self, seen: Mapping[str, Any]) -> None:
        output = seen.get("outputs")
        rows = [row for row in self.order if seen.get(f"activation:{row}") is output]
        self.output_row = rows[-1] if rows and output is not None else None
        made_by = getattr(output, "grad_fn", None)  # torch
        name = None if made_by is None else type(made_by).__name__.removesuffix("Backward0")
        if name is None and output is not None and not hasattr(output, "detach"):
            operation = None if keras.backend.backend() != "tensorflow" else operation_of(output)
            name = None if operation is None else operation.type
        self.output_operation = name

    def _note(self, key: str, value: Any) -> None:
        """Keep the first tensor of a structure."""
        tensors = [t for t in keras.tree.flatten(value) if keras.ops.is_tensor(t)]
        if tensors:
            self._seen[key] = tensors[0]

    def _applying(self, optimizer: Any) -> Callable[..., Any]:
        own = optimizer.apply

        @functools.wraps(own)
        def apply(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tuple(map(_kept, args)), {name: _kept(value) for name, value in kwargs.items()}
            try:
                gradients, variables = _apart((*args, *kwargs.values()))
                known = getattr(optimizer, "_trainable_variables", ()) if variables is None else variables
                self._gradients(gradients, known)
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
                places[id(weight)] = places[id(weight.value)] = f"gradient:{row}:{place}"
        for gradient, variable in zip(gradients, variables, strict=False):
            key = places.get(id(variable))
            if key is None or gradient is None:
                continue
            if hasattr(gradient, "indices") and hasattr(gradient, "values") and hasattr(gradient, "dense_shape"):
                self._seen[f"{key}:values"], self._seen[f"{key}:indices"] = gradient.values, gradient.indices
            else:
                self._seen[key] = gradient


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


def _apart(values: Iterable[Any]) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return the gradients and the variables (None: those of the optimizer) among the arguments of an ``apply``.

    Told by what they are: an optimizer of the user's own may call them what it likes, and take more besides.
    """
    lists = [value for value in values if isinstance(value, list | tuple)]
    variables = next((v for v in lists if v and all(hasattr(each, "assign") for each in v)), None)
    return next((v for v in lists if v is not variables), ()), variables


def _kept(value: Any) -> Any:
    """Return a list in place of an iterator, which could be read only once."""
    return list(value) if isinstance(value, Iterator) else value


def optimizers_of(model: Any) -> list[Any]:
    """Return the optimizers of a model: the compiled one, and those that it (or a model in it) keeps for its steps."""
    models = [layer for layer in model._flatten_layers() if isinstance(layer, keras.Model)]
    found = [
        value
        for owner in models
        for attribute in vars(owner).values()
        for value in _members(attribute)
        if isinstance(value, keras.optimizers.Optimizer)
    ]
    return list({id(o): o for o in found}.values())


def _members(attribute: Any) -> Iterable[Any]:
    if isinstance(attribute, Mapping):
        return list(attribute.values())
    return attribute if isinstance(attribute, list | tuple) else (attribute,)


def _noting(
    own: Callable[..., Any], note: Callable[..., None], fail: Callable[[Exception], None], *, arguments: bool = False
) -> Callable[..., Any]:
    """Return a function that does what ``own`` does and tells its result (and arguments)."""

    @functools.wraps(own)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = own(*args, **kwargs)
        try:
            note(result, *args, **kwargs) if arguments else note(result)
        except UnobservableError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
            fail(error)
        return result

    return call
