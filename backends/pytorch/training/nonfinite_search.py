"""The first value of a training that is not finite: a replay in which each step from a given one on is checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from math import inf
from typing import Any

from torch import Tensor, nn

from autotrainer.adapter.backend import ReplayRun, Run
from autotrainer.backends.pytorch.data.batches import Batch
from autotrainer.backends.pytorch.model.describe import plain_name
from autotrainer.backends.pytorch.training.nonfinite_operations import NonfiniteOperations, finite, tensors
from autotrainer.backends.pytorch.training.training_loop import Training
from autotrainer.records.nonfinite import FirstNonfinite, Operation

__all__ = ["SearchedTraining"]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor that is not finite was seen: see `FirstNonfinite`."""

    tensor: str
    layer: str | None = None
    after: bool = False


@dataclass(slots=True)
class SearchedTraining(Training):
    """A training that is checked from one step on, and ends where something is found.

    Attributes:
        search: The core's side of it.
        layers: Names of the layers.
    """

    search: ReplayRun = field(kw_only=True)
    layers: Collection[str] = field(kw_only=True)

    @classmethod
    def of(cls, training: Training, search: ReplayRun, layers: Collection[str]) -> SearchedTraining:
        """Return a training as one that is checked."""
        own = {each.name: getattr(training, each.name) for each in fields(Training)}
        return cls(**own, search=search, layers=layers)

    def _step(self, batch: Batch, run: Run) -> Tensor | None:
        step = self.search.steps - 1
        if step < self.search.first:
            return Training._step(self, batch, run)
        before = self._bad_weight()
        flow = _Flow()
        with flow.watch(self.model, self.objective.loss, self.layers), NonfiniteOperations() as made:
            loss = Training._step(self, batch, run)
        place: _Place | None
        operation: Operation | None = None
        after = self._bad_weight()
        if before is not None:  # a step before has left them so, or they were so from the start
            place, step = before, max(0, step - 1)
        elif loss is not None and not finite(loss):
            place = flow.forward or _Place("loss")
            operation = None if place.tensor in ("input", "target") else made.forward or made.update
        elif after is not None:
            place = flow.backward or after
            operation = made.backward if flow.backward is not None else made.update
        else:
            return loss
        self.search.found = FirstNonfinite(step, place.tensor, place.layer, place.after, operation or Operation())
        return loss

    def _bad_weight(self) -> _Place | None:
        """Return the first parameter in forward order that is not finite."""
        bad = {plain_name(name.rpartition(".")[0]) for name, p in self.model.named_parameters() if not finite(p)}
        return _Place("weight", next((name for name in self.layers if name in bad), None)) if bad else None


class _Flow:
    """Follows what flows forward and backward in one step.

    Attributes:
        forward: The first place of the forward pass with values that are not finite, or None.
        backward: The first place of the backward pass, or None.
    """

    def __init__(self) -> None:
        self.forward: _Place | None = None
        self.backward: _Place | None = None
        self._left: str | None = None  # the layer that has run last
        self._reached: str | None = None  # the layer whose own gradients are being computed
        self._handles: list[Any] = []

    @contextmanager
    def watch(self, model: nn.Module, loss: nn.Module | None, layers: Collection[str]) -> Iterator[None]:
        """Follow a step while this lasts."""
        note = self._handles.append
        note(model.register_forward_pre_hook(self._given, with_kwargs=True))
        for path, module in model.named_modules():
            name = plain_name(path)
            if name in layers:
                note(module.register_forward_pre_hook(self._entering(name), with_kwargs=True))
                note(module.register_forward_hook(self._leaving(name)))
                for parameter in module.parameters(recurse=False):
                    if parameter.requires_grad:
                        self._listen(parameter, partial(self._gradient, name, False))
        if loss is not None:
            note(loss.register_forward_pre_hook(self._judging, with_kwargs=True))
        try:
            yield
        finally:
            for handle in self._handles:
                handle.remove()

    def _listen(self, tensor: Tensor, note: Callable[[Tensor], None]) -> None:
        """Have a function called with the gradient of a tensor."""
        self._handles.append(tensor.register_hook(note))  # type: ignore[no-untyped-call]

    def _given(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._left is None and _is_bad(args, kwargs):
            self.forward = self.forward or _Place("input")

    def _entering(self, name: str) -> Callable[..., None]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.forward is None and _is_bad(args, kwargs):
                self.forward = _Place("output", self._left, after=True)
            for tensor in tensors(args):
                if tensor.requires_grad:
                    self._listen(tensor, partial(self._gradient_of_input, name))

        return enter

    def _leaving(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if self.forward is None and not _all_finite(output):
                self.forward = _Place("output", name)
            self._left = name
            for tensor in tensors(output):
                if tensor.requires_grad:
                    self._listen(tensor, partial(self._gradient, name, True))

        return leave

    def _judging(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.forward is not None:
            return
        outputs, targets = args[:1], (args[1:], kwargs)
        if not _all_finite(outputs):
            self.forward = _Place("output", self._left, after=True)
        elif not _all_finite(targets):
            self.forward = _Place("target")

    def _gradient(self, name: str, of_output: bool, gradient: Tensor) -> None:
        """Take the gradient of a layer's output, which the layers after it make, or of one of its parameters."""
        if self.backward is None and not finite(gradient):
            made_after = of_output and self._reached is None
            self.backward = _Place("gradient", (self._reached if of_output else name) or name, made_after)
        if of_output:
            self._reached = name

    def _gradient_of_input(self, name: str, gradient: Tensor) -> None:
        """Take the gradient of what a layer was given: with that the backward pass has left the layer."""
        if self.backward is None and not finite(gradient):
            self.backward = _Place("gradient", name)
        if self._reached == name:
            self._reached = None


def _is_bad(args: Any, kwargs: Any) -> bool:
    """Say whether what a module is given is not finite: -inf in anything but what comes first may be a mask."""
    given = list(tensors((args, kwargs)))
    others = (tensor for tensor in given[1:] if tensor.is_floating_point())
    return not _all_finite(given[:1]) or any(not bool((tensor < inf).all()) for tensor in others)


def _all_finite(value: Any) -> bool:
    return all(finite(tensor) for tensor in tensors(value))
