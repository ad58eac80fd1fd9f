"""A copy of a Keras model that probes call, or the model itself, whose variables they leave as they are."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from autotrainer.adapter.probed_model import PROBE_ROWS, NotProbedError, ProbedModel, check_memory
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.model.copying import check_copy, copy_value, has_graph, sublayers
from autotrainer.backends.keras3.model.model_calls import call_model
from autotrainer.backends.keras3.model.rebuilding import copy_model
from autotrainer.backends.keras3.probing.isolation import Isolation
from autotrainer.backends.keras3.runtime.keras_internals import backend
from autotrainer.backends.keras3.runtime.random_state import preserve_random_state, seed_everything
from autotrainer.backends.keras3.runtime.tensors import to_array
from autotrainer.records.data import as_array
from autotrainer.records.facts import NOISE_SOURCES

__all__ = ["KerasProbedModel", "probed_inputs"]

_RANDOM = ("normal", "uniform", "truncated_normal", "randint", "categorical", "binomial", "beta", "gamma")
_SCALE = 0.5
"""Size of the random numbers that move a weight, ÷ its root mean square."""
_LEAST = 0.1
"""Size of those that move biases and scales of zero."""
_MOST_VALUES = 1 << 22
"""Values of the inputs that are kept at most."""


def probed_inputs(model: Any, inputs: Any, targets: Any, copied: Any = None) -> KerasProbedModel:
    """Return a copy of a model with the inputs of a batch; of a model that can't be copied, the model itself, isolated.

    Args:
        model: The model; it stays as it is.
        inputs: Inputs of a batch: arrays or tensors.
        targets: Their targets.
        copied: A copy of the model that nobody else needs, or None.

    Raises:
        NotProbedError: If it can't be copied, and has no weights yet with which it could be called itself.
    """
    size = sum(math.prod(v.shape) * keras.backend.standardize_dtype(v.dtype).endswith("64") for v in model.variables)
    check_memory(4 * (sum(math.prod(v.shape) for v in model.variables) + size))
    with preserve_random_state():
        copied = _copy_of(model, inputs) if copied is None else copied
        if copied is not None:
            probed = KerasProbedModel(copied, inputs, targets)
        elif model.built and model.weights:
            probed = KerasProbedModel(model, inputs, targets, Isolation(model))
        else:
            raise NotProbedError("the model can't be copied")
    probed.values_last = getattr(getattr(model, "loss", None), "axis", -1) == -1  # where Keras has its classes
    return probed


def _copy_of(model: Any, inputs: Any) -> Any:
    """Return a copy with the same weights; None if the model can't be copied."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copied = copy_model(model)
            if len(copied.weights) != len(model.weights):
                call_model(copied, keras.tree.map_structure(lambda v: v[:2], inputs))
            if model.built:
                if not has_graph(model):
                    check_copy(model, copied)
                for old, new in zip(model.weights, copied.weights, strict=True):
                    copy_value(old, new)
    except Exception:  # noqa: BLE001 - constructors and methods of the user's
        return None
    return copied


def _added_losses(model: Any) -> tuple[float, ...]:
    """Return the losses that layers have added since they were cleared; not the penalties of weights."""
    losses = [loss for layer in sublayers(model) for loss in layer._get_own_losses()]
    return tuple(float(keras.ops.convert_to_numpy(loss)) for loss in losses if not len(loss.shape))


class KerasProbedModel(ProbedModel):
    """A copy of a Keras model, or the model itself with what isolates it; made by `probed_inputs`."""

    rows_first = True

    def __init__(self, model: Any, inputs: Any, targets: Any, isolation: Isolation | None = None) -> None:
        self._model, self._inputs, self._owned = model, inputs, isolation is None
        self._isolated: Callable[[], AbstractContextManager[None]] = isolation.active if isolation else nullcontext
        arrays = [to_array(as_array(value)) for value in keras.tree.flatten(inputs)]
        names = _names(model, inputs)
        rows = len(arrays[0])
        values = sum(math.prod(array.shape[1:]) for array in arrays)
        kept = max(min(rows, 3), min(rows, PROBE_ROWS, _MOST_VALUES // max(1, values)))
        self.fields = {name: array[:kept] for name, array in zip(names, arrays, strict=True)}
        target = next((to_array(as_array(v)) for v in keras.tree.flatten(targets) if hasattr(v, "shape")), None)
        self.targets = None if target is None or not target.ndim else target[:kept]
        layers = list(sublayers(model))
        self.depth = sum(1 for layer in layers if layer.weights and not list(layer._layers))
        types = {keras.backend.standardize_dtype(layer.compute_dtype or "float32") for layer in layers}
        self.epsilon = max((_epsilon(kind) for kind in types), default=_epsilon("float32"))
        embeddings = [layer for layer in layers if isinstance(layer, keras.layers.Embedding)]
        self.embeds = bool(embeddings)
        self.padding = frozenset({0} if any(layer.mask_zero for layer in embeddings) else ())
        attention = (keras.layers.MultiHeadAttention, keras.layers.Attention, keras.layers.GroupQueryAttention)
        self._attends = any(isinstance(layer, attention) for layer in layers)
        self.attention = self._attends
        self._state: list[tuple[Any, NDArray[Any]]] | None = None

    def outputs(
        self, fields: Mapping[str, NDArray[Any]], *, seed: int = 0, keep_state: bool = False
    ) -> list[NDArray[np.float64]]:
        """Call the model."""
        if self._state is None:
            self._state = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in self._model.non_trainable_variables]
        arrays = [keras.ops.convert_to_tensor(fields[name]) for name in self.fields]
        inputs = keras.tree.pack_sequence_as(self._inputs, arrays)
        calls = _CallRecorder()
        with ExitStack() as stack:
            for context in (preserve_random_state, _without_gradients, self._isolated, calls.recording):
                stack.enter_context(context())
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            seed_everything(seed)
            for variable, value in self._state:
                is_seed = variable.name == "seed_generator_state"
                if is_seed or not keep_state:
                    variable.assign(value + np.asarray([seed, 0], value.dtype) if is_seed else value)
            if self._owned:
                self._model._clear_losses()
            result = call_model(self._model, inputs)
            if self._owned:
                self.added_losses = _added_losses(self._model)
        self.attention = self.attention or calls.attention
        self.noise = NOISE_SOURCES[calls.noise]
        outputs = [to_array(value) for value in keras.tree.flatten(result) if hasattr(value, "shape")]
        return [np.asarray(output, np.float64) for output in outputs if output.dtype.kind == "f"]

    @contextmanager
    def perturbed(self) -> Iterator[bool]:
        """Move the trainable weights."""
        saved = [(v, np.array(keras.ops.convert_to_numpy(v))) for v in self._model.trainable_variables]
        generator = np.random.default_rng(0)
        try:
            with self._isolated():
                for variable, value in saved:
                    noise = generator.normal(size=value.shape) * _size(value.astype(np.float64))
                    variable.assign((value.astype(np.float64) + noise).astype(value.dtype))
            yield bool(saved)
        finally:
            with self._isolated():
                for variable, value in saved:
                    variable.assign(value)

    @contextmanager
    def without_normalization(self) -> Iterator[None]:
        """Let batch normalization return its inputs."""
        with ExitStack() as stack:
            for layer in sublayers(self._model):
                if isinstance(layer, keras.layers.BatchNormalization):
                    stack.enter_context(patched(layer, "call", _identity))
            yield


def _identity(inputs: Any, training: Any = None, mask: Any = None) -> Any:
    return inputs


class _CallRecorder:
    """Notes calls of attention and of random functions of the engine."""

    def __init__(self) -> None:
        self.attention = False
        self.noise = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Replace functions of Keras' engine for a while."""
        with ExitStack() as stack:
            for module, name, note in (
                (backend.nn, "softmax", self._note_softmax),
                (backend.nn, "dot_product_attention", self._note_attention),
                (backend.random, "dropout", self._note_dropout),
                *((backend.random, name, self._note_random) for name in _RANDOM),
            ):
                function = getattr(module, name, None)
                if function is not None:
                    stack.enter_context(patched(module, name, _noted(function, note)))
            yield

    def _note_softmax(self, x: Any, *_: Any, **__: Any) -> None:
        shape = tuple(getattr(x, "shape", ()))
        self.attention |= len(shape) > 2 and shape[-1] == shape[-2] and shape[-1] != 1

    def _note_attention(self, *_: Any, **__: Any) -> None:
        self.attention = True

    def _note_dropout(self, inputs: Any, rate: Any, *_: Any, **__: Any) -> None:
        shape = tuple(getattr(inputs, "shape", ()))
        weights = len(shape) > 3 and shape[-1] == shape[-2]
        self.noise = max(self.noise, (3 if weights else 2) if rate else 0)

    def _note_random(self, *_: Any, **__: Any) -> None:
        self.noise = max(self.noise, 1)


def _noted(function: Any, note: Any) -> Any:
    def noted(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)
        return function(*args, **kwargs)

    return noted


def _without_gradients() -> Any:
    if keras.backend.backend() != "torch":
        return nullcontext()
    import torch

    return torch.no_grad()


def _names(model: Any, inputs: Any) -> list[str]:
    """Return the names of the inputs, in the order of ``keras.tree.flatten``."""
    paths: list[str] = []
    keras.tree.map_structure_up_to(inputs, lambda _: paths.append(""), inputs)
    if isinstance(inputs, Mapping):
        keys = [str(key) for key in sorted(inputs)]
        if len(keys) == len(paths):
            return keys
    if has_graph(model):
        names = [tensor._keras_history.operation.name for tensor in keras.tree.flatten(getattr(model, "inputs", ()))]
        if len(names) == len(paths) == len(set(names)):
            return names
    return [f"input {number + 1}" for number in range(len(paths))]


def _epsilon(kind: str) -> float:
    return {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-52}.get(kind, 2.0**-23)


def _size(value: NDArray[np.float64]) -> float:
    """Return the size of the random numbers that move a weight: that of its values, or of usual initial ones."""
    scale = _SCALE * float(np.sqrt(np.mean(value**2))) if value.size else 0.0
    usual = _LEAST if value.ndim < 2 else _SCALE / math.sqrt(max(1, value.size // value.shape[-1]))
    return max(scale, usual) if math.isfinite(scale) else usual
