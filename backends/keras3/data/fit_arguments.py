"""What a user gives besides model and data: settings of `compile` and further arguments of `fit`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import keras

from autotrainer.backends.keras3.data.sample_weights import check_class_weight
from autotrainer.errors import ConfigError, InputError, nearest

__all__ = ["CompileSettings", "FitArguments"]

_OWN = {
    "x": "train_data",
    "y": "train_data",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "validation_data": "validation_data",
    "validation_split": "validation_data",
}
_UNUSED = ("self", "initial_epoch", "validation_freq")


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """How models are compiled.

    Attributes:
        loss: The loss, or None for a model that computes its own.
        loss_weights: Weights of several losses.
        metrics: As given to `compile`.
        weighted_metrics: As given to `compile`.
        jit_compile: Whether XLA compiles the step, or ``auto``.
        run_eagerly: Whether the step runs without being traced.
    """

    loss: Any
    loss_weights: Any = None
    metrics: Any = None
    weighted_metrics: Any = None
    jit_compile: bool | str = "auto"
    run_eagerly: bool = False

    @classmethod
    def of(cls, model: Any, loss: Any) -> CompileSettings:
        """Take the settings of a compiled model; ``loss``, if given, replaces its loss.

        Raises:
            InputError: If there is no loss.
        """
        if isinstance(loss, str):
            try:
                keras.losses.get(loss)
            except ValueError as error:
                raise InputError(
                    f"loss={loss!r} is no loss of Keras: give a name, function or object of keras.losses"
                ) from error
        if not (loss is None or isinstance(loss, str | list | tuple | Mapping) or callable(loss)):
            raise InputError(f"loss={loss!r} is no loss of Keras: give a name, function or object of keras.losses")
        if not model.compiled:
            if loss is None:
                raise InputError("the model is not compiled: give loss and optimizer, or compile it")
            return cls(loss)
        metrics, losses = model._compile_metrics, model._compile_loss
        return cls(
            loss if loss is not None else model.loss,
            losses._user_loss_weights if losses is not None and loss is None else None,
            metrics._user_metrics if metrics is not None else None,
            metrics._user_weighted_metrics if metrics is not None else None,
            model.jit_compile,
            model.run_eagerly,
        )

    def check_loss(self, model: Any) -> None:
        """Check that there is a loss.

        Args:
            model: The model, called before: losses that a `call` adds are known only then.

        Raises:
            InputError: If there is none.
        """
        if self.loss is None and not _computes_its_loss(model):
            raise InputError("the model is compiled without a loss: give one")

    def compile(self, model: Any, optimizer: Any, loss: Any) -> None:
        """Compile a model with metrics of its own."""
        model.compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=self.loss_weights if loss is self.loss else None,
            metrics=_fresh(self.metrics),
            weighted_metrics=_fresh(self.weighted_metrics),
            jit_compile=self.jit_compile,
            run_eagerly=self.run_eagerly,
        )


def _computes_its_loss(model: Any) -> bool:
    kind = type(model)
    own = kind.train_step is not keras.Model.train_step or kind.compute_loss is not keras.Model.compute_loss
    return bool(own or model.losses)


def _fresh(metrics: Any) -> Any:
    """Return metrics without state of earlier trainings."""
    return keras.tree.map_structure(
        lambda m: type(m).from_config(m.get_config()) if isinstance(m, keras.metrics.Metric) else m, metrics
    )


@dataclass(frozen=True, slots=True)
class FitArguments:
    """The user's ``fit_args``, checked.

    Attributes:
        steps: ``steps_per_epoch``.
        validation_steps: Batches of a validation stream.
        shuffle: Whether arrays are shuffled.
        sample_weight: Weights of the training rows, or None.
        callbacks: Callback objects (for the training as given), or a callable that makes them (for all), or None.
        rest: What goes on to `fit` as it is.
    """

    steps: int | None = None
    validation_steps: int | None = None
    shuffle: bool = True
    sample_weight: Any = None
    callbacks: list[Any] | Callable[[], Any] | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FitArguments:
        """Check the arguments.

        Raises:
            ConfigError: If one is unknown, or is not the user's to give here.
        """
        known = [n for n in inspect.signature(keras.Model.fit).parameters if n not in _UNUSED]
        for name in given:
            if name in _OWN:
                raise ConfigError(f"fit_args has {name!r}: give fit's own argument {_OWN[name]} instead")
            if name not in known:
                raise ConfigError(f"fit_args: {name!r} can't be used here, {nearest(name, set(known) - set(_OWN))}")
        rest = {"verbose": 0, **given}
        _count(rest, "validation_batch_size")  # changes nothing in what an evaluation gives
        callbacks = rest.pop("callbacks", None)
        if callbacks is not None and (isinstance(callbacks, keras.callbacks.Callback) or not callable(callbacks)):
            callbacks = _as_callbacks(callbacks)
        rest["class_weight"] = check_class_weight(rest.get("class_weight"))
        if rest["verbose"] not in ("auto", 0, 1, 2):
            raise ConfigError(f"fit_args: verbose must be 'auto', 0, 1 or 2, not {rest['verbose']!r}")
        shuffle = rest.pop("shuffle", True)
        if shuffle not in (True, False):
            raise ConfigError(f"fit_args: shuffle must be True or False, not {shuffle!r}")
        return cls(
            _count(rest, "steps_per_epoch"),
            _count(rest, "validation_steps"),
            bool(shuffle),
            rest.pop("sample_weight", None),
            callbacks,
            rest,
        )

    def callbacks_for(self, first: bool) -> list[Any]:
        """Return the user's callbacks for a training; objects serve the first one only."""
        if self.callbacks is None:
            return []
        if not callable(self.callbacks):
            return list(self.callbacks) if first else []
        return _as_callbacks(self.callbacks())


def _as_callbacks(given: Any) -> list[Any]:
    callbacks = list(given) if isinstance(given, Iterable) else [given]
    wrong = [c for c in callbacks if not isinstance(c, keras.callbacks.Callback)]
    if wrong:
        raise ConfigError(f"fit_args: callbacks must be Keras callbacks, not {type(wrong[0]).__name__}")
    return callbacks


def _count(arguments: dict[str, Any], name: str) -> int | None:
    value = arguments.pop(name, None)
    if value is not None and (isinstance(value, bool) or not isinstance(value, Integral) or value < 1):
        raise ConfigError(f"fit_args: {name} must be a whole number >= 1, not {value!r}")
    return None if value is None else int(value)
