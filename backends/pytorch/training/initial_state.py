"""The initial state of managed trainings: fresh copies of the user's model, optimizer and loss, linked as those are."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.callables import check_callable
from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.model.losses import as_module
from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.backends.pytorch.runtime.host_offload import copied, copied_to_host, is_remote
from autotrainer.backends.pytorch.runtime.random_state import seed_all
from autotrainer.edits.base import shorten
from autotrainer.errors import ConfigError, InputError

__all__ = ["InitialState", "check_owned", "check_trainable"]


@dataclass(slots=True)
class InitialState:
    """Makes the objects of each training, always with the same initial weights. The user's objects are not changed.

    The initial copies are in host memory, whatever the device of the user's model.

    Args:
        reference: The initial model. Run it only to materialize lazy parameters.
        fresh: Returns a fresh model, its optimizer (None if `make_optimizer` has to build it) and the loss module
            (None with the user's ``step``).
        optimizer_factory: callable(params) -> optimizer, or None.
        linked_optimizer: The optimizer of the initial model, or None.
    """

    reference: nn.Module
    fresh: Callable[[], tuple[nn.Module, Optimizer | None, nn.Module | None]]
    optimizer_factory: Callable[[Any], Any] | None
    linked_optimizer: Optimizer | None = None

    @classmethod
    def of(cls, request: FitRequest) -> InitialState:
        """Check model, optimizer and loss of a request, and keep copies of them.

        Raises:
            InputError: If they do not belong together or can't be copied.
        """
        optimizer = request.optimizer
        if optimizer is None or not (isinstance(optimizer, Optimizer) or callable(optimizer)):
            raise ConfigError(
                "optimizer must be a torch optimizer over model.parameters() or callable(params), not "
                f"{shorten(optimizer)}: for example lambda params: torch.optim.Adam(params, lr=1e-3)"
            )
        if not isinstance(optimizer, Optimizer):
            check_callable("optimizer", optimizer, "params")
        if request.loss is None and request.step is None:
            raise ConfigError("loss is missing: give a loss module or function, or step=callable(model, batch)")
        if request.loss is not None and not callable(request.loss):
            raise ConfigError(f"loss must be a loss module or callable(outputs, targets), not {shorten(request.loss)}")
        loss = None if request.loss is None else as_module(request.loss)
        if isinstance(request.model, nn.Module):
            return cls.of_module(request.model, optimizer, loss)
        return cls._of_builder(request.model, optimizer, loss, request.seed)

    @classmethod
    def of_module(cls, model: nn.Module, optimizer: Any, loss: nn.Module | None) -> InitialState:
        """Keep copies of a model, its optimizer (or a function that makes one) and its loss in their current state.

        Raises:
            InputError: If they can't be copied.
        """
        linked = optimizer if isinstance(optimizer, Optimizer) else None
        initial, devices = copied_to_host((model, linked, loss))
        return cls(initial[0], lambda: copied(initial, devices), optimizer if linked is None else None, initial[1])

    @classmethod
    def _of_builder(cls, build: Any, optimizer: Any, loss: nn.Module | None, seed: int) -> InitialState:
        if isinstance(optimizer, Optimizer):
            raise ConfigError(
                "with a callable that builds the model, optimizer must be callable(params): an optimizer object "
                "belongs to another model's parameters"
            )
        seed_all(seed)
        first = build()
        if not isinstance(first, nn.Module):
            raise InputError(f"model() must return a torch.nn.Module, not {type(first).__name__}")
        loss_copy, devices = copied_to_host((loss,))
        first_tensors = {id(tensor): weakref.ref(tensor) for tensor in (*first.parameters(), *first.buffers())}
        initial = _initial_copy(first)
        is_copy = initial is not first
        del first

        def fresh() -> tuple[nn.Module, Optimizer | None, nn.Module | None]:
            model = build()
            tensors = (*model.parameters(), *model.buffers())
            if any(first_tensors.get(id(tensor), lambda: None)() is tensor for tensor in tensors):
                model = copied((model,), {})[0]  # what the callable's models share must stay unchanged
            if is_copy and any(is_remote(parameter) for parameter in initial.parameters()):
                initial.to("cpu")  # its first pass has put lazy parameters on the device
            model.load_state_dict(initial.state_dict())
            return model, None, copied(loss_copy, devices)[0]

        return cls(initial, fresh, optimizer)

    def reference_optimizer(self) -> Optimizer:
        """Return an optimizer of the initial model, to be inspected and never to be stepped."""
        if self.linked_optimizer is not None:
            return self.linked_optimizer
        frozen = [parameter for parameter in self.reference.parameters() if not parameter.requires_grad]
        if any(parameter.requires_grad for parameter in self.reference.parameters()):
            frozen = []
        try:  # the user's callable may leave frozen parameters out, and a training may thaw them
            for parameter in frozen:
                parameter.requires_grad_(parameter.is_floating_point())
            return self.make_optimizer(self.reference)
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Build the optimizer over a model's parameters.

        Raises:
            InputError: If the callable returns anything else.
        """
        assert self.optimizer_factory is not None
        check_trainable(model)
        optimizer = self.optimizer_factory(list(model.parameters()))
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer(params) must return a torch optimizer, not {type(optimizer).__name__}")
        if not owns(optimizer, model):
            raise InputError("optimizer(params) returned an optimizer that owns none of the parameters it was given")
        for group in optimizer.param_groups:
            group.pop("initial_lr", None)
        return optimizer


def check_trainable(model: nn.Module) -> None:
    """Raise an `InputError` if no parameter of a model can be trained."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("the model has no parameter to train: set requires_grad of those to be trained")


def check_owned(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise an `InputError` if an optimizer has no parameter of a model."""
    if not owns(optimizer, model):
        raise InputError(
            "the optimizer owns none of the model's parameters: build it over model.parameters(), or give "
            "callable(params)"
        )


def _initial_copy(built: nn.Module) -> nn.Module:
    """Return a copy of a model in host memory; the model itself if it can't be copied."""
    try:
        copy_: nn.Module = copied_to_host((built,))[0][0]
    except InputError:  # no copy is needed unless the models of the callable share something
        return built
    return copy_
