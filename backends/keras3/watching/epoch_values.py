"""What the logs of an epoch say of it, without what nothing has measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from autotrainer.backends.keras3.watching.epochs import canonical, number

__all__ = ["EpochValues"]


class EpochValues:
    """Reads the logs of epochs.

    For a training step of the user's own, Keras tells the value of a metric even if that step never updates it, which
    is then 0, and even if it returns a value of its own under the same name. Such a value is left out, or what the
    last step returned is taken instead, as Keras does for names that no metric has.

    Args:
        model: The model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._unused: frozenset[str] | None = None
        self._unused_in_tests: frozenset[str] = frozenset()

    def after_call(self, logs: Any) -> frozenset[str]:
        """Find out, after the first call of the train function, which metrics it leaves alone.

        Args:
            logs: What the call returned.

        Returns:
            Names in the logs of the step under which nothing is told.
        """
        if self._unused is None:
            own = type(self._model).train_step is not keras.Model.train_step
            self._unused = frozenset(_unused(self._model)) if own else frozenset()
        told = logs if isinstance(logs, Mapping) else {}
        return frozenset(name for name in self._unused if not number(told.get(name)))

    def after_test(self) -> None:
        """Find out which metrics an evaluation has left alone."""
        own = type(self._model).test_step is not keras.Model.test_step
        self._unused_in_tests = frozenset(_unused(self._model)) if own else frozenset()

    def of(self, logs: Mapping[str, Any], last: Any) -> dict[str, float]:
        """Return the numbers among the logs of an epoch, by their usual names.

        Args:
            logs: The logs.
            last: Logs of the last call of the train function.
        """
        last = last if isinstance(last, Mapping) else {}
        unused = self._unused or frozenset()
        values = {name: last.get(name) if name in unused else value for name, value in logs.items()}
        unknown = {name for name in unused if not number(values.get(name))}
        unknown |= {f"val_{name}" for name in self._unused_in_tests if not number(values.get(f"val_{name}"))}
        return canonical({name: value for name, value in values.items() if name not in unknown})


def _unused(model: Any) -> Iterator[str]:
    """Yield the names of the means that have not been updated since they were reset."""
    if keras.backend.backend() == "jax":
        return  # while it trains, its metrics hold no values
    for metric in _flat(model.metrics):
        if isinstance(metric, keras.metrics.Mean) and not float(keras.ops.convert_to_numpy(metric.count)):
            yield metric.name


def _flat(metrics: Any) -> Iterator[Any]:
    for metric in metrics:
        inner = getattr(metric, "metrics", None)  # those given to compile() are kept in one
        if isinstance(inner, list | tuple):
            yield from _flat(inner)
        else:
            yield metric
