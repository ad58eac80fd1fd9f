"""The loss of a sampled step from its backward pass, where no loss module shows its calls.

A loop may compute its loss by a function, an expression or a method, and log its value at most. The autograd graph
still holds which function of PyTorch it comes from, and outputs and targets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.losses.loss_graph import (
    graph_parameters,
    is_multiple,
    loss_function,
    outputs_and_targets_by_rows,
    weights_in_graph,
)
from autotrainer.backends.pytorch.losses.main_term import MainTerm, MainTerms
from autotrainer.backends.pytorch.losses.pairwise_loss import pairwise_rows
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.runtime.backward_signal import add_backward_listener, remove_backward_listener
from autotrainer.backends.pytorch.runtime.observation import is_transformed, observation
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.backends.pytorch.watching.losses.loss_call import (
    LossCall,
    losses_add_up,
    output_activation,
    returned_call,
    returned_logits,
    returned_loss,
)

__all__ = ["BackwardLoss", "ReturnedLoss"]

_INSPECTED = 3
"""Losses whose parameters are compared with those of the model: walking the graph takes a microsecond a node."""


def _of_logits(function: Any) -> Any:
    """Return the loss function of logits in place of that of log-probabilities."""
    if not isinstance(function, functools.partial) or function.func is not F.nll_loss:
        return function
    reduced = functools.partial(F.cross_entropy, **function.keywords)
    if "loss_info" in vars(function):
        vars(reduced)["loss_info"] = replace(loss_info(reduced), weighted=True)
    return reduced


class ReturnedLoss:
    """Finds out whether the loss that a model returns is that of the training: its backward pass starts from it.

    Args:
        confirmed: Called once that is so, with the call of the model.
    """

    def __init__(self, confirmed: Callable[[LossCall, bool], None]) -> None:
        self._confirmed = confirmed
        self._node: Any = None  # where the loss was computed; held from the forward to the backward pass
        self._call: LossCall | None = None
        self._adds_up = False
        self.followed = False
        """Whether it is the loss of the training."""
        self.function: Callable[..., Tensor] | None = None
        """The function of PyTorch that it comes from."""

    def note(self, kwargs: Mapping[str, Any], output: Any) -> None:
        """Note a call of the model in a sampled step."""
        loss = None if self.followed else returned_loss(output)
        if loss is not None and loss.grad_fn is not None:
            self._node, self._adds_up = loss.grad_fn, losses_add_up(kwargs)
            call = returned_call(loss, kwargs, output)
            self.function = loss_function(loss, mean=self._adds_up)
            if call.direct and output_activation(returned_logits(loss, output)) != "log_softmax":
                self.function = _of_logits(self.function)
            self._call = call.copied()

    def backward_started(self, loss: Tensor) -> None:
        """Compare a loss whose backward pass starts with that of the latest call."""
        node, call = self._node, self._call
        if node is not None and call is not None and is_multiple(loss, node):
            self.clear()
            self.followed = True
            self._confirmed(call, self._adds_up)

    def clear(self) -> None:
        """Drop the call of a step that has ended."""
        self._node = self._call = None


class BackwardLoss:
    """Reads the loss at the start of the backward pass of one step.

    A step with several backward passes is not read: they may be parts of a batch, but also of adversaries. Nor is a
    loss that depends on parameters of other models, whose targets need not be those of this one. Where they are known
    to accumulate the gradient of one batch, their losses add up to that of the step.

    Args:
        model: The model.
        fail: Called with an exception; nothing is ever raised into the training.
        stopwatch: Measures the time spent here.
        tracer: Records forward passes.
    """

    def __init__(
        self,
        model: nn.Module,
        fail: Callable[[Exception], None],
        stopwatch: Stopwatch,
        tracer: ForwardTracer,
    ) -> None:
        self._model, self._fail, self._stopwatch = model, fail, stopwatch
        self._inspected = 0
        self.passes = 0
        """Backward passes of the step, as far as they start from losses of the model."""
        self.started: list[str] = []
        """Names of the operations that all backward passes of the step start from."""
        self._listening = self._foreign = False
        self._unread = False  # whether a step had several backward passes
        self._terms, self._tracer = MainTerms(), tracer
        self.call: LossCall | None = None
        """Loss, outputs and targets of the step, as far as the graph holds them."""
        self.on_targets: Callable[[Tensor], None] | None = None
        """Called with the whole targets of a step."""
        self.on_loss: Callable[[Tensor], None] | None = None
        """Called with each loss, before its backward pass."""
        self.function: Callable[..., Tensor] | None = None
        """The function of PyTorch that the loss comes from."""
        self.accumulates = False
        """Whether several backward passes of a step accumulate the gradient of one batch."""
        self.returned: ReturnedLoss | None = None
        """Looks whether the loss is what the model has returned."""

    def begin(self) -> None:
        """Listen in the step that begins."""
        self.passes, self.call, self.function = 0, None, None
        self.started = []
        self._listening = True
        add_backward_listener(self)

    def end(self) -> None:
        """Stop listening."""
        if self.returned is not None:
            self.returned.clear()
        if self._listening:
            self._listening = False
            remove_backward_listener(self)

    def backward_started(self, tensors: Any) -> None:
        """Read the loss; see `BackwardListener`."""
        loss = tensors if isinstance(tensors, Tensor) else None
        self.started.append("" if loss is None or loss.grad_fn is None else loss.grad_fn.name())
        if loss is None or loss.ndim or loss.grad_fn is None or is_transformed():
            return
        with self._stopwatch:
            try:
                with observation():
                    self._read(loss)
                    self._tracer.forget_returned()
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._fail(error)

    def _read(self, loss: Tensor) -> None:
        if self.returned is not None:
            self.returned.backward_started(loss)
        if self._inspected < _INSPECTED:
            leaves = graph_parameters(loss)  # inputs that require gradients are leaves, too
            used, own = (
                {id(p) for p in leaves if isinstance(p, nn.Parameter)},
                {id(p) for p in self._model.parameters()},
            )
            if used.isdisjoint(own):
                return  # of another model
            self._inspected += 1
            self._foreign |= not used <= own
        self.passes += 1
        if self.on_loss is not None:
            self.on_loss(loss)
        before = self.call
        if self._foreign or (self.passes > 1 and (before is None or not self.accumulates)):
            self._unread |= not self._foreign
            self.call = self.function = None
            return
        if pairwise_rows(loss) is not None:
            self.call = LossCall(loss.detach(), pairwise=True)
            return
        # where some steps show the outputs of the model alone, none shows what the loss makes of them
        outputs, targets = (None, None) if self._unread else outputs_and_targets_by_rows(loss)
        if outputs is not None and targets is not None and not targets.requires_grad:
            self.function = loss_function(loss, mean=self.accumulates)
            if self.on_targets is not None:
                self.on_targets(targets)
            observed = LossCall(loss.detach(), rows=len(outputs), weights=weights_in_graph(loss))
            self.call = LossCall.reported(outputs, targets, observed).copied()
        else:
            term = None if self._unread or self.accumulates else self._main_term(loss)
            self.call = LossCall(loss.detach()) if term is None else LossCall.of_term(loss, term)
            if term is not None:
                self.function = term.function
                if self.on_targets is not None and len(term.targets) == term.rows:
                    self.on_targets(term.targets)
        if before is not None:
            self.call = replace(self.call, loss=before.loss + self.call.loss)

    def _main_term(self, loss: Tensor) -> MainTerm | None:
        return self._terms.read(loss, self._tracer.returned, self._tracer.are_inputs)
