"""The user's compile settings and further arguments of `fit`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import keras

from autotrainer.backends.keras3.data.sample_weights import check_class_weight
from autotrainer.backends.keras3.model.losses import check_loss
from autotrainer.edits.base import Count, Range, checked, shorten
from autotrainer.errors import ConfigError, InputError, nearest

__all__ = ["CompileSettings", "FitArguments"]

_RESERVED = {
    "x": "train_data",
    "y": "train_data",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "validation_data": "validation_data",
    "validation_split": "validation_data",
}
_VERBOSITY = Annotated[int, Range(least=0, most=2)] | Literal["auto"] | bool
_SWITCH = bool | Annotated[int, Range(least=0, most=1)]
_UNUSED = ("self", "initial_epoch", "validation_freq")


@dataclass(frozen=True, slots=True)
class CompileSettings:
    """How models are compiled.

    Attributes:
        loss: The loss, or None for a model that computes its loss itself.
        loss_weights: Weights of several losses.
        metrics: As passed to `compile`.
        weighted_metrics: As passed to `compile`.
        jit_compile: Whether XLA compiles the step, or ``auto``.
        run_eagerly: Whether the step runs eagerly.
    """

    loss: Any
    loss_weights: Any = None
    metrics: Any = None
    weighted_metrics: Any = None
    jit_compile: bool | str = "auto"
    run_eagerly: bool = False

    @classmethod
    def of(cls, model: Any, loss: Any) -> CompileSettings:
        """Return the settings of a compiled model; ``loss``, unless None, replaces its loss.

        Raises:
            InputError: If there is no loss, or it is none of Keras.
        """
        check_loss(loss)
        loss = keras.losses.get(loss) if isinstance(loss, Mapping) and "class_name" in loss else loss
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
            model: The model, after a call: only then are losses known that its `call` adds.

        Raises:
            InputError: If there is none.
        """
        if self.loss is None and not _computes_its_loss(model):
            raise InputError("the model is compiled without a loss: give one")

    def compile(self, model: Any, optimizer: Any, loss: Any) -> None:
        """Compile a model with fresh metrics."""
        model.compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=self.loss_weights if loss is self.loss else None,
            metrics=_without_state(self.metrics),
            weighted_metrics=_without_state(self.weighted_metrics),
            jit_compile=self.jit_compile,
            run_eagerly=self.run_eagerly,
        )


def _computes_its_loss(model: Any) -> bool:
    kind = type(model)
    custom = kind.train_step is not keras.Model.train_step or kind.compute_loss is not keras.Model.compute_loss
    return bool(custom or model.losses)


def _without_state(metrics: Any) -> Any:
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
        callbacks: Callback objects for the original training only, a callable that makes them for each training, or
            None.
        rest: Arguments passed to `fit` unchanged.
    """

    steps: int | None = None
    validation_steps: int | None = None
    shuffle: bool = True
    sample_weight: Any = None
    callbacks: list[Any] | Callable[[], Any] | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> FitArguments:
        """Check the arguments.

        Raises:
            ConfigError: If one is unknown or can't be set here.
        """
        accepted = [n for n in inspect.signature(keras.Model.fit).parameters if n not in _UNUSED]
        for name in arguments:
            if name in _RESERVED:
                raise ConfigError(
                    f"fit_args has {shorten(name)}: give the argument {_RESERVED[name]} of autotrainer.fit instead"
                )
            if name not in accepted:
                raise ConfigError(
                    f"fit_args: {shorten(name)} can't be used here, {nearest(name, set(accepted) - set(_RESERVED))}"
                )
        rest = {"verbose": 0, **arguments}
        _count(rest, "validation_batch_size")  # has no effect on the results of an evaluation
        callbacks = rest.pop("callbacks", None)
        if callbacks is not None and (isinstance(callbacks, keras.callbacks.Callback) or not callable(callbacks)):
            callbacks = _as_callbacks(callbacks)
        rest["class_weight"] = check_class_weight(rest.get("class_weight"))
        rest["verbose"] = checked("fit_args: verbose", rest["verbose"], _VERBOSITY)
        shuffle = checked("fit_args: shuffle", rest.pop("shuffle", True), _SWITCH)
        return cls(
            _count(rest, "steps_per_epoch"),
            _count(rest, "validation_steps"),
            bool(shuffle),
            rest.pop("sample_weight", None),
            callbacks,
            rest,
        )

    def callbacks_for(self, first: bool) -> list[Any]:
        """Return the user's callbacks for a training; callback objects are used only in the first one."""
        if self.callbacks is None:
            return []
        if not callable(self.callbacks):
            return list(self.callbacks) if first else []
        return _as_callbacks(self.callbacks())


def _as_callbacks(values: Any) -> list[Any]:
    callbacks = list(values) if isinstance(values, Iterable) else [values]
    wrong = [c for c in callbacks if not isinstance(c, keras.callbacks.Callback)]
    if wrong:
        raise ConfigError(f"fit_args: callbacks must be Keras callbacks, not {type(wrong[0]).__name__}")
    return callbacks


def _count(arguments: dict[str, Any], name: str) -> int | None:
    value: int | None = checked(f"fit_args: {name}", arguments.pop(name, None), Count | None)
    return value
