"""Finds out why no step of an optimizer is observed: another optimizer of the same parameters may take the steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import ref

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence

__all__ = ["MissingStep", "trainings_begin_with_a_step"]

_begun_by_steps = False

_PARAMETERS, _NOTED = 16, 64
"""Parameters of which weights are noted, and weights of each: a step changes nearly all."""


@contextmanager
def trainings_begin_with_a_step() -> Iterator[None]:
    """Count nothing for trainings that are watched in the block: a step of theirs is what shows them.

    They begin and end in hooks on all optimizers, over which PyTorch iterates: one more must not come or go then.
    """
    global _begun_by_steps
    before, _begun_by_steps = _begun_by_steps, True
    try:
        yield
    finally:
        _begun_by_steps = before


class MissingStep:
    """Counts the steps of other optimizers of the same parameters until one of the watched optimizers steps.

    Notes a few weights, too: a loop may change them without any optimizer.

    Args:
        optimizers: The watched optimizers.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._watched = WeakSequence(optimizers)
        self._parameters = set[int]().union(*(parameter_ids(each) for each in optimizers))
        self.other_steps = 0
        """Steps of other optimizers."""
        self._weights = [(parameter, _first_values(parameter)) for parameter in _some_parameters(optimizers)]
        listener = ref(self)

        def after_step(optimizer: Optimizer, *_: object) -> None:
            waiting = listener()
            if waiting is not None:
                waiting._stepped(optimizer)

        self._handle = None if _begun_by_steps else register_optimizer_step_post_hook(never_compiled(after_step))

    def _stepped(self, optimizer: Optimizer) -> None:
        if all(optimizer is not each for each in self._watched):
            self.other_steps += not self._parameters.isdisjoint(parameter_ids(optimizer))

    def end(self) -> None:
        """Stop counting."""
        if self._handle is not None:
            self._handle.remove()

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            self.end()

    def facts(self, *, losses: int, called: bool) -> dict[str, float]:
        """Return the facts of a training without a step.

        Args:
            losses: Losses of the model that were computed.
            called: Whether the model was called with gradients.
        """
        facts = {"calls_without_step": float(called), "other_optimizer_steps": float(self.other_steps)}
        if losses:
            facts |= {"losses_without_step": float(losses), "weights_changed": float(self._changed())}
        return facts

    def _changed(self) -> bool:
        """Return whether any of the weights that were noted has changed."""
        return any(not torch.equal(_first_values(now).to(before), before) for now, before in self._weights)


def _some_parameters(optimizers: tuple[Optimizer, ...]) -> Sequence[Tensor]:
    """Return some of the trainable parameters that are no more than plain tensors."""
    parameters = [p for each in optimizers for group in each.param_groups for p in group["params"]]
    plain = [p for p in parameters if type(p) is Parameter and p.requires_grad and not p.is_meta and p.is_contiguous()]
    return plain[:: max(1, len(plain) // _PARAMETERS)]


def _first_values(parameter: Tensor) -> Tensor:
    return parameter.detach().reshape(-1)[:_NOTED].clone()
