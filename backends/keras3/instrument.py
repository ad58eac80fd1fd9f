"""Recording what flows through one training step: outputs of layers, gradients, loss, inputs and targets.

Nothing is added to the computation. While a step is traced (or runs eagerly), wrappers on the instances note the
tensors that pass, and the step gives them out besides its own result. On TensorFlow that takes a train function of
its own, so that all other steps run the one that Keras made.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import keras

from autotrainer.backends.keras3.parts import Part

__all__ = ["InstrumentedStep", "Recorder", "UnobservableError", "patched"]

_RANDOM_WITH_STATE = frozenset(
    {
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "ParameterizedTruncatedNormal",
        "TruncatedNormal",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "Multinomial",
    }
)
"""TensorFlow operations that keep their random state in a compiled function, and so would repeat it in a second."""


_REGROUPED = frozenset({"Mul", "Add", "AddV2", "AddN"})
"""TensorFlow operations that its graph optimizer puts into another order, and so rounds otherwise, as long as their
results have no further use (`MinimizeBroadcasts` and others in grappler/optimizers/arithmetic_optimizer.cc)."""


class UnobservableError(Exception):
    """Raised while a step is traced: it can't be recorded without changing the training."""


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

    def train_step(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Take a training step as the model does.

        Returns:
            What the model's own ``train_step`` returns, and the tensors recorded, by name: ``loss``, ``inputs``,
            ``targets``, ``outputs``, ``activation:<row>``, ``gradient:<row>:<weight>`` (with ``:values`` and
            ``:indices`` if sparse).

        Raises:
            UnobservableError: If the step can't be recorded without changing it.
        """
        result: list[Any] = []
        seen = self.record(lambda: result.append(self._own_step(*args, **kwargs)))
        if "inputs" not in seen:
            seen.update(self._batch(*args))
        if keras.backend.backend() == "tensorflow":
            known: dict[Any, Any] = {}
            seen = {key: _apart(value, known) for key, value in _of_this_graph(seen).items()}
        return result[0], seen

    def record(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Call a function and return the tensors that passed meanwhile, by name."""
        self.calls += 1
        self._seen, self.order = {}, []
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
        self._note("outputs", output)
        _raise_if_random(self._model)

    def _loss(self, signature: inspect.Signature, loss: Any, *args: Any, **kwargs: Any) -> None:
        given = signature.bind(*args, **kwargs).arguments
        for name, key in (("x", "inputs"), ("y", "targets"), ("y_pred", "outputs")):
            self._note(key, given.get(name))
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
            operation = None if keras.backend.backend() != "tensorflow" else _operation(output)
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
        def apply(grads: Any, trainable_variables: Any = None) -> Any:
            grads = list(grads)
            known = trainable_variables
            if known is None:
                known = getattr(optimizer, "_trainable_variables", ())
            else:
                known = trainable_variables = list(trainable_variables)
            try:
                self._gradients(grads, known)
                _raise_if_random(self._model)  # later on the optimizer may make its variables
            except UnobservableError:
                raise
            except Exception as error:  # noqa: BLE001 - nothing of ours may stop a training
                self._fail(error)
            return own(grads, trainable_variables)

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


def optimizers_of(model: Any) -> list[Any]:
    """Return the optimizers of a model: the compiled one, and those that it keeps for a training step of its own."""
    found = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    return list({id(o): o for o in found}.values())


def _has_accelerator() -> bool:
    import tensorflow as tf

    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


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


def _operation(tensor: Any) -> Any:
    """Return the operation of a graph that made a tensor; None for a tensor with a value."""
    import tensorflow as tf

    return None if isinstance(tensor, tf.Variable) or tf.executing_eagerly() else getattr(tensor, "op", None)


def _raise_if_random(model: Any) -> None:
    """Refuse a graph that draws random numbers from a state of its own.

    Called before anything is traced that makes variables: those of an unfinished trace would never get values.

    Raises:
        UnobservableError: If it does.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if not tf.executing_eagerly():
        operations = tf.compat.v1.get_default_graph().get_operations()
        names = sorted({operation.type for operation in operations} & _RANDOM_WITH_STATE)
        if names:
            raise UnobservableError(f"{model.name} draws random numbers inside the compiled step ({', '.join(names)})")


def _of_this_graph(seen: dict[str, Any]) -> dict[str, Any]:
    """Drop what belongs to an inner graph (a loop's body) and can't leave it."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return seen
    graph = tf.compat.v1.get_default_graph()
    return {key: value for key, value in seen.items() if getattr(value, "graph", None) is graph}


def _apart(value: Any, known: dict[Any, Any]) -> Any:
    """Return a tensor of a graph, or a copy of it where giving out the tensor itself would change the rounding.

    Args:
        value: A tensor.
        known: Copies made so far, by the reference of what they copy.
    """
    import tensorflow as tf

    made_by = _operation(value)
    if made_by is None or made_by.type not in _REGROUPED:
        return value
    if value.ref() not in known:
        given = [_apart(source, known) for source in made_by.inputs]
        make = getattr(tf.raw_ops, made_by.type)
        with tf.compat.v1.get_default_graph()._attr_scope(_distinct()):
            known[value.ref()] = make(inputs=given) if made_by.type == "AddN" else make(x=given[0], y=given[1])
    return known[value.ref()]


def _distinct() -> dict[str, Any]:
    """Return an attribute that keeps the graph optimizer from merging a copy with what it copies."""
    from tensorflow.core.framework.attr_value_pb2 import AttrValue

    return {"_autotrainer_copy": AttrValue(b=True)}


class InstrumentedStep:
    """Takes training steps that give out what flows through them.

    Args:
        model: The model, built and compiled.
        make: The model's own ``make_train_function``.
        parts: Its layers.
        fail: Takes an exception of our own code.

    Raises:
        UnobservableError: If the engine or the way in which the model is compiled does not allow it.
    """

    def __init__(
        self, model: Any, make: Callable[..., Any], parts: Sequence[Part], fail: Callable[[Exception], None]
    ) -> None:
        self._model = model
        self._make = make
        self._graph = keras.backend.backend() == "tensorflow"
        self._function: Callable[..., Any] | None = None
        self._raise_if_unobservable()
        self.batch_only = self._graph and bool(model.jit_compile) and not _has_accelerator()
        """Whether only inputs and targets are recorded: on a CPU, XLA rounds otherwise if more values leave a step."""
        self.recorder = Recorder(model, parts, fail, batch_only=self.batch_only)

    def _raise_if_unobservable(self) -> None:
        engine, model = keras.backend.backend(), self._model
        if engine not in ("tensorflow", "torch"):
            raise UnobservableError(f"the {engine} engine compiles the whole step as one pure function")
        if engine == "torch" and model.jit_compile:
            raise UnobservableError("the model is compiled with jit_compile=True on the torch engine")
        if self._graph and model.distribute_strategy.num_replicas_in_sync > 1:
            raise UnobservableError("the model trains on several replicas")

    def run(self, base: Callable[..., Any], data: Any) -> tuple[Any, dict[str, Any], UnobservableError | None]:
        """Take one step (or as many as a call takes) on a batch.

        Args:
            base: The model's own train function, which takes the step where it can't be recorded.
            data: What Keras gives its train function.

        Returns:
            The logs; the tensors recorded (see `Recorder.train_step`); and why nothing was recorded, or None.
        """
        if not self._graph:
            with patched(self._model, "train_step", self.recorder.train_step):
                return self._split(base(data))
        import tensorflow as tf

        if not isinstance(data, tf.data.Iterator | tf.distribute.DistributedIterator):
            data = list(itertools.islice(data, self._model.steps_per_execution))
        traced = self.recorder.calls
        try:
            return self._split(self._instrumented()(data))
        except (StopIteration, tf.errors.OpError):
            raise
        except Exception as error:
            eager = self._model.run_eagerly or tf.config.functions_run_eagerly()
            if eager or (self.recorder.calls == traced and not isinstance(error, UnobservableError)):
                raise
            # It failed while being traced, so that no step has been taken and no batch has been read yet.
            reason = error if isinstance(error, UnobservableError) else UnobservableError(f"tracing failed: {error!r}")
            return base(data), {}, reason

    def _instrumented(self) -> Callable[..., Any]:
        if self._function is None:
            attributes = vars(self._model)
            own = attributes.get("train_function")
            try:
                with patched(self._model, "train_step", self.recorder.train_step):
                    self._make(force=True)
                self._function = attributes["train_function"]
            finally:
                attributes["train_function"] = own
        return self._function

    def _split(self, result: Any) -> tuple[Any, dict[str, Any], UnobservableError | None]:
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict):
            return result[0], result[1], None
        return result, {}, UnobservableError("the model makes its train function in a way of its own")
