"""The pristine start of managed trainings: fresh copies of the given model, optimizer and loss, linked as given."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from autotrainer.adapter.spec import FitRequest
from autotrainer.backends.pytorch.model.losses import as_module
from autotrainer.backends.pytorch.optim.optimizers import owns
from autotrainer.backends.pytorch.runtime.host_offload import copied, copied_to_host, is_remote
from autotrainer.backends.pytorch.runtime.random_state import seed_all
from autotrainer.errors import ConfigError, InputError

__all__ = ["InitialState"]


@dataclass(slots=True)
class InitialState:
    """Makes the objects of each training, always with the same initial weights. Nothing given is ever changed.

    The pristine copies are in host memory, whatever the device of the model given.

    Args:
        reference: The pristine model. Run it only to materialize lazy parameters.
        build: Returns a fresh model, the optimizer over its parameters (None: to be built by ``optimizer``) and the
            loss module (None with the user's own ``step``).
        optimizer: callable(params) -> optimizer, or None.
        linked: The pristine model's optimizer, or None.
    """

    reference: nn.Module
    build: Callable[[], tuple[nn.Module, Optimizer | None, nn.Module | None]]
    optimizer: Callable[[Any], Any] | None
    linked: Optimizer | None = None

    @classmethod
    def of(cls, request: FitRequest) -> InitialState:
        """Check model, optimizer and loss of a request, and keep copies of them.

        Raises:
            InputError: If they do not belong together or can't be copied.
        """
        given = request.optimizer
        if given is None or not (isinstance(given, Optimizer) or callable(given)):
            raise ConfigError(
                f"optimizer must be a torch optimizer over model.parameters() or callable(params), not {given!r}: "
                "for example lambda params: torch.optim.Adam(params, lr=1e-3)"
            )
        if request.loss is None and request.step is None:
            raise ConfigError("loss is missing: give a loss module or function, or step=callable(model, batch)")
        if request.loss is not None and not callable(request.loss):
            raise ConfigError(f"loss must be a loss module or callable(outputs, targets), not {request.loss!r}")
        loss = None if request.loss is None else as_module(request.loss)
        if isinstance(request.model, nn.Module):
            return cls.of_module(request.model, given, loss)
        return cls._of_builder(request.model, given, loss, request.seed)

    @classmethod
    def of_module(cls, model: nn.Module, given: Any, loss: nn.Module | None) -> InitialState:
        """Keep copies of a model, its optimizer (or what makes one) and its loss, as they are.

        Raises:
            InputError: If they do not belong together or can't be copied.
        """
        linked = given if isinstance(given, Optimizer) else None
        if linked is not None and not owns(linked, model):
            raise InputError(
                "the optimizer owns none of the model's parameters: build it over model.parameters(), or give "
                "callable(params)"
            )
        pristine, places = copied_to_host((model, linked, loss))
        return cls(pristine[0], lambda: copied(pristine, places), None if linked is not None else given, pristine[1])

    @classmethod
    def _of_builder(cls, build: Any, given: Any, loss: nn.Module | None, seed: int) -> InitialState:
        if isinstance(given, Optimizer):
            raise ConfigError(
                "with a callable that builds the model, optimizer must be callable(params): an optimizer object "
                "belongs to another model's parameters"
            )
        seed_all(seed)
        first = build()
        if not isinstance(first, nn.Module):
            raise InputError(f"model() must return a torch.nn.Module, not {type(first).__name__}")
        kept, places = copied_to_host((loss,))
        own = {id(tensor): weakref.ref(tensor) for tensor in (*first.parameters(), *first.buffers())}
        pristine = _pristine(first)
        ours = pristine is not first
        del first

        def fresh() -> tuple[nn.Module, Optimizer | None, nn.Module | None]:
            model = build()
            tensors = (*model.parameters(), *model.buffers())
            if any(own.get(id(tensor), lambda: None)() is tensor for tensor in tensors):
                model = copied((model,), {})[0]  # what the callable's models share stays as it is
            if ours and any(is_remote(parameter) for parameter in pristine.parameters()):
                pristine.to("cpu")  # it was lazy, and its first pass has put it on the device
            model.load_state_dict(pristine.state_dict())
            return model, None, copied(kept, places)[0]

        return cls(pristine, fresh, given)

    def reference_optimizer(self) -> Optimizer:
        """Return an optimizer over the pristine model, to be asked about and never to be stepped."""
        return self.make_optimizer(self.reference) if self.linked is None else self.linked

    def fresh(self) -> tuple[nn.Module, Optimizer | None, nn.Module | None]:
        """Return a fresh model, its optimizer (None where `make_optimizer` has to build it) and the loss module."""
        return self.build()

    def make_optimizer(self, model: nn.Module) -> Optimizer:
        """Build the optimizer over a model's parameters.

        Raises:
            InputError: If the callable returns something else.
        """
        assert self.optimizer is not None
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InputError("the model has no parameter to train: set requires_grad of those that are to be trained")
        made = self.optimizer(list(model.parameters()))
        if not isinstance(made, Optimizer):
            raise InputError(f"optimizer(params) must return a torch optimizer, not {type(made).__name__}")
        if not owns(made, model):
            raise InputError("optimizer(params) returned an optimizer that owns none of the parameters it was given")
        for group in made.param_groups:
            group.pop("initial_lr", None)
        return made


def _pristine(built: nn.Module) -> nn.Module:
    """Return a copy of a model in host memory; the model itself where it can't be copied."""
    try:
        copy_: nn.Module = copied_to_host((built,))[0][0]
    except InputError:  # it comes from a callable, which needs no copies unless its models share something
        return built
    return copy_
