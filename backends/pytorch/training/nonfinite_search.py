"""Finds the first non-finite value of a training: replays it, and checks each step from a certain one on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf
from typing import Any

from torch import Tensor, nn

from autotrainer.adapter.trainer import ReplayRun, Run
from autotrainer.backends.pytorch.data.batches import Batch
from autotrainer.backends.pytorch.model.describe import plain_name
from autotrainer.backends.pytorch.training.nonfinite_operations import NonfiniteOperations, is_finite, tensors_in
from autotrainer.backends.pytorch.training.training_loop import Training
from autotrainer.records.nonfinite import Location, first_nonfinite

__all__ = ["SearchedTraining"]


@dataclass(slots=True)
class SearchedTraining(Training):
    """A training that is checked from a certain step on, and ends at the first non-finite value.

    Attributes:
        search: The core's side of the search.
        layers: Names of the layers.
    """

    search: ReplayRun = field(kw_only=True)
    layers: Collection[str] = field(kw_only=True)

    @classmethod
    def of(cls, training: Training, search: ReplayRun, layers: Collection[str]) -> SearchedTraining:
        """Return a checked version of a training."""
        settings = {each.name: getattr(training, each.name) for each in fields(Training)}
        return cls(**settings, search=search, layers=layers)

    def _step(self, batch: Batch, run: Run) -> Tensor | None:
        step = self.search.steps - 1
        if step < self.search.first:
            return Training._step(self, batch, run)
        before = self._nonfinite_weight()
        tracer = _FlowTracer()
        with tracer.watch(self.model, self.objective.loss, self.layers), NonfiniteOperations() as operations:
            loss = Training._step(self, batch, run)
        self.search.found = first_nonfinite(
            step,
            weight_before=before,
            loss_is_finite=loss is None or is_finite(loss),
            forward=tracer.forward,
            gradient=tracer.backward,
            weight_after=self._nonfinite_weight(),
            operations=operations.first,
        )
        return loss

    def _nonfinite_weight(self) -> Location | None:
        """Return the first non-finite parameter in forward order."""
        nonfinite = {
            plain_name(name.rpartition(".")[0]) for name, p in self.model.named_parameters() if not is_finite(p)
        }
        return (
            Location("weight", next((name for name in self.layers if name in nonfinite), None)) if nonfinite else None
        )


class _FlowTracer:
    """Checks values and gradients between the layers in one step.

    Attributes:
        forward: Location of the first non-finite value in the forward pass, or None.
        backward: Location of the first non-finite gradient in the backward pass, or None.
    """

    def __init__(self) -> None:
        self.forward: Location | None = None
        self.backward: Location | None = None
        self._last_layer: str | None = None  # of the forward pass
        self._current_layer: str | None = None  # whose gradients are being computed
        self._handles: list[Any] = []

    @contextmanager
    def watch(self, model: nn.Module, loss: nn.Module | None, layers: Collection[str]) -> Iterator[None]:
        """Check a step within this context."""
        add_handle = self._handles.append
        add_handle(model.register_forward_pre_hook(self._check_inputs, with_kwargs=True))
        for path, module in model.named_modules():
            name = plain_name(path)
            if name in layers:
                add_handle(module.register_forward_pre_hook(self._before_layer(name), with_kwargs=True))
                add_handle(module.register_forward_hook(self._after_layer(name)))
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:
                        self._hook_gradient(parameter, partial(self._check_gradient, name, False))
        if loss is not None:
            add_handle(loss.register_forward_pre_hook(self._check_loss_inputs, with_kwargs=True))
        try:
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def _hook_gradient(self, tensor: Tensor, add_handle: Callable[[Tensor], None]) -> None:
        self._handles.append(tensor.register_hook(add_handle))  # type: ignore[no-untyped-call]

    def _check_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._last_layer is None and _has_nonfinite(args, kwargs):
            self.forward = self.forward or Location("input")

    def _before_layer(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.forward is None and _has_nonfinite(args, kwargs):
                self.forward = Location("output", self._last_layer, after=True)
            for tensor in tensors_in(args):
                if tensor.requires_grad:
                    self._hook_gradient(tensor, partial(self._check_input_gradient, name))

        return enter

    def _after_layer(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if self.forward is None and not _all_finite(output):
                self.forward = Location("output", name)
            self._last_layer = name
            for tensor in tensors_in(output):
                if tensor.requires_grad:
                    self._hook_gradient(tensor, partial(self._check_gradient, name, True))

        return leave

    def _check_loss_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.forward is not None:
            return
        outputs, targets = args[:1], (args[1:], kwargs)
        if not _all_finite(outputs):
            self.forward = Location("output", self._last_layer, after=True)
        elif not _all_finite(targets):
            self.forward = Location("target")

    def _check_gradient(self, name: str, of_output: bool, gradient: Tensor) -> None:
        """Check the gradient of a layer's output, which the layers after it compute, or of one of its parameters."""
        if self.backward is None and not is_finite(gradient):
            made_after = of_output and self._current_layer is None
            self.backward = Location("gradient", (self._current_layer if of_output else name) or name, made_after)
        if of_output:
            self._current_layer = name

    def _check_input_gradient(self, name: str, gradient: Tensor) -> None:
        """Check the gradient of a layer's input: with that the backward pass has left the layer."""
        if self.backward is None and not is_finite(gradient):
            self.backward = Location("gradient", name)
        if self._current_layer == name:
            self._current_layer = None


def _has_nonfinite(args: Any, kwargs: Any) -> bool:
    """Return whether a module's arguments are not finite: -inf in any but the first may be a mask."""
    arguments = list(tensors_in((args, kwargs)))
    others = (tensor for tensor in arguments[1:] if tensor.is_floating_point())
    return not _all_finite(arguments[:1]) or any(not bool((tensor < inf).all()) for tensor in others)


def _all_finite(value: Any) -> bool:
    return all(is_finite(tensor) for tensor in tensors_in(value))
