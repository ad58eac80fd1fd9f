"""Finds out why no step of an optimizer is observed: another optimizer of the same parameters may take the steps."""

from __future__ import annotations

from weakref import WeakSet

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.runtime.hooks import never_compiled
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence

__all__ = ["MissingStep"]


class MissingStep:
    """Counts the steps of other optimizers of the same parameters until one of the watched optimizers steps.

    Args:
        optimizers: The watched optimizers.
    """

    def __init__(self, optimizers: tuple[Optimizer, ...]) -> None:
        self._watched = WeakSequence(optimizers)
        self._parameters = set[int]().union(*(parameter_ids(each) for each in optimizers))
        self.other_steps = 0
        """Steps of other optimizers."""
        _listeners.add(self)

    def _stepped(self, optimizer: Optimizer) -> None:
        if all(optimizer is not each for each in self._watched):
            self.other_steps += not self._parameters.isdisjoint(parameter_ids(optimizer))

    def end(self) -> None:
        """Stop counting."""
        _listeners.discard(self)

    def facts(self, *, called: bool) -> dict[str, float]:
        """Return the facts of a training without a step.

        Args:
            called: Whether the model was called with gradients.
        """
        return {"calls_without_step": float(called), "other_optimizer_steps": float(self.other_steps)}


_listeners: WeakSet[MissingStep] = WeakSet()


def _after_step(optimizer: Optimizer, *_: object) -> None:
    for listener in list(_listeners):
        listener._stepped(optimizer)


# for good: PyTorch iterates over these hooks when a training begins or ends within one, and they must not change then
register_optimizer_step_post_hook(never_compiled(_after_step))
