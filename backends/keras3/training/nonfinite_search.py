"""The first value of a training that is not finite: a replay whose last steps run eagerly, and are checked."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

from autotrainer.adapter.trainer import ReplayRun
from autotrainer.backends.keras3.engines.patching import patched
from autotrainer.backends.keras3.model.optimizers import gradients_and_variables, materialize, optimizers_of
from autotrainer.backends.keras3.model.watched_layers import WatchedLayer, in_known_order, watched_layers
from autotrainer.backends.keras3.training.nonfinite_operations import NonfiniteOperations, numbers
from autotrainer.records.nonfinite import Location, first_nonfinite

__all__ = ["NonfiniteSearchCallback"]


class NonfiniteSearchCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that lets the steps from a given one on run eagerly, and checks them.

    It comes after the callback that accounts for the steps, and has to be closed.

    Args:
        model: The model, compiled.
        search: The core's side of the replay.
    """

    def __init__(self, model: Any, search: ReplayRun) -> None:
        super().__init__()
        self._trained, self._search = model, search
        self._parts = watched_layers(model)
        self._stack = ExitStack()
        self._switched = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Switch to checked steps where they begin."""
        if self._switched or self._search.steps - 1 < self._search.first:
            return
        self._switched = True
        model = self._trained
        own = model.train_step
        model.run_eagerly, model.jit_compile = True, False
        self._stack.enter_context(patched(model, "train_step", functools.partial(self._checked, own)))
        model.make_train_function(force=True)

    def close(self) -> None:
        """Put everything back."""
        self._stack.close()

    def _checked(self, own: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._search.found is not None:
            return own(*args, **kwargs)
        before = self._bad_weights()
        flow = _Flow(self._parts, NonfiniteOperations())
        with flow.watch(self._trained), flow.made.watch():
            logs = own(*args, **kwargs)
        loss = logs.get("loss") if isinstance(logs, dict) else None
        after = self._bad_weights()
        self._search.found = first_nonfinite(
            self._search.steps - 1,
            weight_before=Location("weight", flow.first_in_order(before)) if before else None,
            loss_is_finite=flow.loss_is_finite and _all_finite(loss),
            forward=flow.forward,
            gradient=Location("gradient", flow.last_in_order(flow.bad_gradients)) if flow.bad_gradients else None,
            weight_after=Location("weight", flow.first_in_order(after)) if after else None,
            operations=flow.made.first,
        )
        return logs

    def _bad_weights(self) -> list[WatchedLayer]:
        return [part for part in self._parts if not _all_finite([w.value for w in part.weights])]


class _Flow:
    """Follows what flows through one eager step.

    Attributes:
        made: Looks at the operations.
        forward: The first tensor of the forward pass with values that are not finite; None without one.
        loss_is_finite: Whether the loss is finite, as far as it was seen.
        bad_gradients: Layers with gradients that are not finite.
    """

    def __init__(self, parts: Sequence[WatchedLayer], made: NonfiniteOperations) -> None:
        self.made = made
        self.forward: Location | None = None
        self.loss_is_finite = True
        self.bad_gradients: list[WatchedLayer] = []
        self._parts = parts
        self._called: list[WatchedLayer] = []

    @contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        """Follow a step while this lasts."""
        self._called = list(self._parts) if in_known_order(model) else []
        left: list[str] = []
        with ExitStack() as stack:
            for part in self._parts:
                wrapped = self._through(part, part.caller.call, left)
                stack.enter_context(patched(part.caller, "call", wrapped))
            stack.enter_context(patched(model, "call", self._given(model.call)))
            stack.enter_context(patched(model, "compute_loss", self._judged(model.compute_loss, left)))
            for optimizer in optimizers_of(model):
                stack.enter_context(patched(optimizer, "apply", self._applied(optimizer, optimizer.apply)))
            yield

    def first_in_order(self, parts: Sequence[WatchedLayer]) -> str:
        """Return the name of the part that is called first."""
        return min(parts, key=self._place).info.name

    def last_in_order(self, parts: Sequence[WatchedLayer]) -> str:
        """Return the name of the part that is called last: its gradients are the first."""
        return max(parts, key=self._place).info.name

    def _place(self, part: WatchedLayer) -> int:
        return self._called.index(part) if part in self._called else len(self._called)

    def _given(self, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.forward is None and not _all_finite(args[:1]):
                self.forward = Location("input")
            return own(*args, **kwargs)

        return call

    def _through(self, part: WatchedLayer, own: Callable[..., Any], left: list[str]) -> Callable[..., Any]:
        @functools.wraps(own)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self.forward is None and not _all_finite(args[:1]):
                self.forward = Location("output", left[-1] if left else None, after=True)
            output = own(*args, **kwargs)
            if self.forward is None and not _all_finite(output):
                self.forward = Location("output", part.info.name)
            left.append(part.info.name)
            if part not in self._called:
                self._called.append(part)
            return output

        return call

    def _judged(self, own: Callable[..., Any], left: list[str]) -> Callable[..., Any]:
        @functools.wraps(own)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(("x", "y", "y_pred"), args, strict=False)) | kwargs
            if self.forward is None and not _all_finite(given.get("y_pred")):
                self.forward = Location("output", left[-1] if left else None, after=True)
            if self.forward is None and not _all_finite(given.get("y")):
                self.forward = Location("target")
            loss = own(*args, **kwargs)
            self.loss_is_finite = self.loss_is_finite and _all_finite(loss)
            self.made.part = "backward"
            return loss

        return compute_loss

    def _applied(self, optimizer: Any, own: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(own)
        def apply(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = tuple(map(materialize, args)), {name: materialize(value) for name, value in kwargs.items()}
            gradients, variables = gradients_and_variables((*args, *kwargs.values()))
            known = getattr(optimizer, "_trainable_variables", ()) if variables is None else variables
            bad = {id(v) for g, v in zip(gradients, known, strict=False) if g is not None and not _all_finite(g)}
            self.bad_gradients = [
                part for part in self._parts if any(id(w) in bad or id(w.value) in bad for w in part.weights)
            ]
            self.made.part = "update"
            return own(*args, **kwargs)

        return apply


def _all_finite(value: Any) -> bool:
    found = (numbers(tensor) for tensor in keras.tree.flatten(value))
    return all(values is None or bool(np.isfinite(values).all()) for values in found)
