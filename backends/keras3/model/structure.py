"""Copies of Keras models, and the same model with layers put in, replaced or put in front of it."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional, functional_like_constructor
from keras.src.saving.serialization_lib import SafeModeScope, deserialize_keras_object

from autotrainer.backends.keras3.layers.inserted import BOUNDED, Residual, bound
from autotrainer.errors import ConfigError, InputError

__all__ = [
    "check_copy",
    "check_stateless",
    "copy_layer",
    "copy_model",
    "copy_value",
    "has_graph",
    "name_alike",
    "rebuild",
    "sublayers",
]


_ADVICE = "give a zero-argument callable that builds the model, or implement get_config() and from_config()"
_PLAIN = (str, int, float, bool, types.NoneType)
_IDENTITY = frozenset({"name", "built", "seed", "layers", "training"})
_OF_TRAINING = frozenset(
    {"compiled", "optimizer", "loss", "history", "steps_per_execution", "unrolled_steps_per_execution"}
    | {f"{run}_function" for run in ("train", "test", "predict")}
    | {f"stop_{run}" for run in ("training", "evaluating", "predicting")}
)
"""Attributes of a model that `compile`, `fit`, `evaluate` and `predict` set: no part of what is copied."""


def has_graph(model: Any) -> bool:
    """Say whether a model is Sequential or Functional, so that it can be taken apart and put together again."""
    if isinstance(model, keras.Sequential):
        return type(model) is keras.Sequential
    return (
        isinstance(model, Functional)
        and type(model).call is Functional.call
        and functional_like_constructor(type(model))
    )


def sublayers(layer: Any) -> Iterator[Any]:
    """Yield a layer and all layers inside it."""
    yield from layer._flatten_layers()


def check_stateless(model: Any) -> None:
    """See that no layer carries a state from one batch to the next: evaluating between batches would change it.

    Raises:
        ConfigError: If one does.
    """
    for layer in sublayers(model):
        if getattr(layer, "stateful", False) is True:
            raise ConfigError(
                f"layer {layer.name!r} is stateful: what it keeps from batch to batch would be lost between training "
                "and evaluation; build the model with stateful=False, or watch() a fit() of your own"
            )


def copy_model(model: Any) -> Any:
    """Return an uncompiled copy of a model with the same weights, trainable flags and names.

    A copy of a model without a graph may have to be called once before it has weights.

    Raises:
        InputError: If the model is code that can't be repeated from its configuration.
    """
    if has_graph(model):
        return rebuild(model)
    copy = _from_config(model)
    _copy_state(model, copy)
    return copy


def _copy_state(old: Any, new: Any) -> None:
    """Give a layer the weights and trainable flags of another one of the same kind, as far as it has them yet."""
    for layer, twin in zip(sublayers(old), sublayers(new), strict=False):
        if type(layer) is type(twin) and twin.trainable != layer.trainable:
            twin.trainable = layer.trainable
        _carry_edits(layer, twin)
    if [w.shape for w in old.weights] == [w.shape for w in new.weights]:
        for weight, twin in zip(old.weights, new.weights, strict=True):
            copy_value(weight, twin)
            if twin.trainable != weight.trainable:
                twin.trainable = weight.trainable


def _carry_edits(old: Any, new: Any) -> None:
    """Give a layer what edits have changed in another one in place, which the configuration around it does not say."""
    if type(old) in BOUNDED.values() and type(new) in BOUNDED:
        bound(new, old.limit)
    for before, after in ((old, new), (getattr(old, "cell", None), getattr(new, "cell", None))):
        own = getattr(before, "activation", None)
        if before is None or type(before) is not type(after) or isinstance(own, keras.layers.Layer):
            continue
        if after is not None and callable(own) and own is not getattr(after, "activation", own):
            after.activation = own


def copy_value(old: Any, new: Any) -> None:
    """Give a variable the value of another one: through NumPy, since JAX would share the array and donate it later."""
    new.assign(np.array(keras.ops.convert_to_numpy(old)))


def copy_layer(layer: Any, **changes: Any) -> Any:
    """Return a layer (or operation of a graph) of the same configuration but for some changes, with new weights."""
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return _from_config(layer)
    if isinstance(layer, keras.layers.Lambda):
        return _copy_lambda(layer)
    if isinstance(layer, Residual):
        activation = None if layer.activation is None else copy_layer(layer.activation)
        return Residual(copy_layer(layer.layer), activation, name=layer.name)
    own = getattr(layer, "activation", None)
    if isinstance(own, types.FunctionType) and not isinstance(layer, keras.layers.RNN):
        # a function of the user's, a lambda even, needs no registration if it is handed over as it is
        copy = _from_config(layer, activation="linear", **changes)
        copy.activation = own
        return copy
    return _from_config(layer, **changes)


def _copy_lambda(layer: Any) -> Any:
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
        trainable=layer.trainable,
    )


def _from_config(source: Any, **changes: Any) -> Any:
    """Make a model, layer or operation anew from its configuration, or from what its constructor was given.

    Keras notes the arguments of a layer's constructor, but not those of a model: a subclassed model without a
    `get_config` of its own is made with the arguments that it keeps as attributes (`check_copy` compares the two).
    """
    cls = type(source)
    with keras.saving.custom_object_scope(_custom_objects(source)), SafeModeScope(False), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lambdas are unsafe in files: this one stays in memory
        try:
            if isinstance(source, keras.Model) and not _has_own_config(cls):
                return _named_like(source, cls(**_kept_arguments(source)))
            try:
                config = source.get_config()
                copy = cls.from_config({**config, **{name: v for name, v in changes.items() if name in config}})
                return _named_like(source, copy)  # a configuration that Keras noted by itself has no name
            except TypeError:
                noted = getattr(source, "_auto_config", None)  # the constructor takes neither name nor trainable
                if noted is None:
                    raise
                return _named_like(source, cls(**deserialize_keras_object(noted.serialize())))
        except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{cls.__name__} can't be copied ({reason}): {_ADVICE}") from error


def _has_own_config(cls: Any) -> bool:
    owner = next(base for base in cls.__mro__ if "get_config" in vars(base))
    return cls.__module__.startswith("keras.") or not owner.__module__.startswith("keras.")


def _named_like(source: Any, copy: Any) -> Any:
    if copy.name != source.name:
        copy.name = source.name
    return copy


def _kept_arguments(source: Any) -> dict[str, Any]:
    found = {}
    for name, parameter in inspect.signature(type(source).__init__).parameters.items():
        value = vars(source).get(name)
        if isinstance(value, list | tuple):
            value = list(value)
        plain = all(
            isinstance(v, (*_PLAIN, types.FunctionType)) for v in (value if isinstance(value, list) else [value])
        )
        if (
            parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
            and name in vars(source)
            and plain
        ):
            found[name] = value
    return found


def name_alike(source: Any, copy: Any) -> None:
    """Give the layers of a copy the names of the source's: code that makes its layers anew numbers them on."""
    for layer, twin in zip(sublayers(source), sublayers(copy), strict=False):
        _named_like(layer, twin)


def check_copy(source: Any, copy: Any) -> None:
    """See that a copy of a model that is code has the same layers and plain attributes.

    Raises:
        InputError: If not; says what to give instead.
    """
    pairs = list(zip(sublayers(source), sublayers(copy), strict=False))
    same = len(list(sublayers(source))) == len(list(sublayers(copy))) == len(pairs)
    if not same or not all(_settings(a) == _settings(b) for a, b in pairs):
        raise InputError(f"a copy of {type(source).__name__} from its configuration differs from it: {_ADVICE}")


def _settings(layer: Any) -> Any:
    own = {name: v for name, v in vars(layer).items() if not name.startswith("_") and isinstance(v, _PLAIN)}
    config: dict[str, Any] = {}
    if type(layer).__module__.startswith("keras."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lambdas again
            config = layer.get_config()
    left_out = _IDENTITY | _OF_TRAINING if isinstance(layer, keras.Model) else _IDENTITY
    return type(layer), [{n: v for n, v in values.items() if n not in left_out} for values in (own, config)]


def _custom_objects(source: Any) -> Mapping[str, Any]:
    """Return the classes and functions that a configuration may name, by their name."""
    found: dict[str, Any] = {}
    owners = list(sublayers(source)) if isinstance(source, keras.layers.Layer) else [source]
    for owner in owners:
        for value in (owner, *vars(owner).values()):
            kind = value if isinstance(value, types.FunctionType) else type(value)
            if not str(getattr(kind, "__module__", "")).startswith(("keras.", "builtins", "tensorflow.", "numpy")):
                found[kind.__name__] = kind
    return found


def rebuild(
    model: Any,
    *,
    replaced: Mapping[int, Any] | None = None,
    after: Mapping[int, Sequence[Any]] | None = None,
    head: Sequence[Any] = (),
    entry: int = 0,
) -> Any:
    """Put a Sequential or Functional model together anew, uncompiled, from copies of its layers with their weights.

    Args:
        model: The model; it stays as it is.
        replaced: By `id` of a layer: the new layer in its place.
        after: By `id` of a layer: new layers that its output goes through.
        head: New layers that an input goes through first.
        entry: Position of that input among the flattened inputs.

    Returns:
        A model of the same class and name.
    """
    work = _Rebuild(replaced or {}, after or {})
    new = work.model(model, head, entry)
    for old, copy in work.copies:
        if isinstance(old, keras.Model):
            check_copy(old, copy)
        _copy_state(old, copy)
    return new


class _Rebuild:
    """One rebuilding: remembers copies, so that layers used twice stay one layer."""

    def __init__(self, replaced: Mapping[int, Any], after: Mapping[int, Sequence[Any]]) -> None:
        self._made = dict(replaced)
        self._after = after
        self.copies: list[tuple[Any, Any]] = []

    def model(self, model: Any, head: Sequence[Any] = (), entry: int = 0) -> Any:
        """Return a model put together anew."""
        new = (
            self._sequential(model, head)
            if isinstance(model, keras.Sequential)
            else self._functional(model, head, entry)
        )
        if not model.trainable:
            new.trainable = False
        return new

    def _layer(self, layer: Any) -> Any:
        if id(layer) not in self._made:
            if has_graph(layer):
                self._made[id(layer)] = self.model(layer)
            else:
                self._made[id(layer)] = copy_layer(layer)
                if isinstance(layer, keras.layers.Layer):
                    self.copies.append((layer, self._made[id(layer)]))
        return self._made[id(layer)]

    def _sequential(self, model: Any, head: Sequence[Any]) -> Any:
        layers: list[Any] = []
        first = model._layers[0] if model._layers else None
        if isinstance(first, keras.layers.InputLayer):
            layers.append(keras.Input(batch_shape=first.batch_shape, dtype=first.dtype, name=first.name))
        layers.extend(head)
        for layer in model.layers:
            layers.extend([self._layer(layer), *self._after.get(id(layer), ())])
        return keras.Sequential(layers, name=model.name)

    def _functional(self, model: Any, head: Sequence[Any], entry: int) -> Any:
        inputs = keras.tree.map_structure(
            lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x._keras_history.operation.name), model.input
        )
        entered = keras.tree.flatten(inputs)[entry]
        changed = entered
        for layer in head:
            changed = layer(changed)

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            args, kwargs = keras.tree.map_structure(lambda x: changed if x is entered else x, (args, kwargs))
            outputs = self._layer(layer)(*args, **kwargs)
            for piece in self._after.get(id(layer), ()):
                outputs = piece(outputs)
            return outputs

        outputs = model._run_through_graph(inputs, operation_fn=lambda layer: layer, call_fn=call)
        return type(model)(inputs, outputs, name=model.name)
