"""One sampled step: puts the hooks in place, takes them away, and turns what they saw into an observation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from autotrainer.backends.pytorch.model.describe import is_scheduled, learning_rate
from autotrainer.backends.pytorch.runtime.hooks import is_compiled
from autotrainer.backends.pytorch.statistics.layer_table import LayerTable
from autotrainer.backends.pytorch.statistics.stats import row_count, rows_of, to_host
from autotrainer.backends.pytorch.statistics.tracing import ForwardTracer
from autotrainer.backends.pytorch.statistics.weights import StepReading, owners
from autotrainer.backends.pytorch.watching.loss_call import LossCall
from autotrainer.backends.pytorch.watching.loss_scale import LossScale
from autotrainer.backends.pytorch.watching.modes import Modes
from autotrainer.backends.pytorch.watching.ownership import Ownership
from autotrainer.backends.pytorch.watching.zero_grad_check import GradientResets
from autotrainer.records.signals import Observation
from autotrainer.records.task import TaskContext

__all__ = ["SampledSteps"]

logger = logging.getLogger("autotrainer")

_LOSS_TOO = ", and the loss can't be seen: call monitor.log(loss=..., outputs=..., targets=...)"


class SampledSteps:
    """Measures single steps of a training, from the end of the step before to their own end.

    Args:
        model: The model.
        optimizers: Its optimizers; a step is one step of the first.
        context: What is known of the training so far.
        fail: Called with what went wrong in a hook; nothing is ever raised into the training.
        needs: Columns that are worth measuring: what is costly is left out where none of them needs it.
        steps: Returns the number of steps done.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...],
        context: TaskContext,
        fail: Callable[[Exception], None],
        needs: frozenset[str],
        steps: Callable[[], int],
    ) -> None:
        self.context = context
        self.compiled = is_compiled(model)
        """Whether the model is compiled and takes no hooks: known from the start, or since a pass was compiled."""
        self.tracer = ForwardTracer(model, fail, needs=needs)
        self.open = False
        """Whether the present step is sampled."""
        self.begun = False
        """Whether the rows of the layer table are fixed."""
        self.modes = Modes(model, steps, fail)
        self.loss_scale = LossScale()
        self._optimizers = optimizers
        self._fail = fail
        self._needs = needs
        self._resets = GradientResets(optimizers[0], fail)
        self._ownership = Ownership(model, optimizers)
        self._table = LayerTable(self.tracer)
        self._owners = owners(self.tracer.modules)
        self._readings: dict[int, StepReading] = {}
        self._handles: list[RemovableHandle] = []
        self._seconds = 0.0
        self._told = self.compiled
        self._step_compiled = False

    def take_seconds(self) -> float:
        """Return the time that the hooks have taken since this was last called."""
        seconds = self._seconds + self.tracer.seconds + self.modes.seconds + self._resets.seconds
        self._seconds = self.tracer.seconds = self.modes.seconds = self._resets.seconds = 0.0
        return seconds

    def begin(self) -> None:
        """Put the hooks in place."""
        self.open = True
        self._readings = {}
        if not self.compiled:
            self.tracer.arm()
            self.modes.begin()
        if self._step_compiled:  # such hooks would have it compiled again and again: the step before is as good a time
            first = self._optimizers[0]
            self._readings[id(first)] = StepReading(self._parameters_of(first), self._needs)
            return
        self._resets.begin()
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before))
        for optimizer in self._optimizers[1:]:
            self._handles.append(optimizer.register_step_post_hook(self._after))

    def end(self) -> None:
        """Take the hooks away."""
        self.open = False
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._resets.stop()
        self.modes.end()
        self.tracer.disarm()
        self.compiled |= self.tracer.traced

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling():
            self._step_compiled = True
            return
        started = perf_counter()
        try:
            with torch.no_grad():
                reading = StepReading(self._parameters_of(optimizer), self._needs)
                self._readings[id(optimizer)] = reading
                if not _closure(args, kwargs):
                    reading.read_gradients(optimizer)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling():
            self._step_compiled = True
            return
        started = perf_counter()
        try:
            with torch.no_grad():
                self.compare(optimizer)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._fail(error)
        self._seconds += perf_counter() - started

    def compare(self, optimizer: Optimizer) -> None:
        """Read what the step of an optimizer has done."""
        reading = self._readings.get(id(optimizer))
        if reading is not None:
            reading.compare(optimizer)

    def _parameters_of(self, optimizer: Optimizer) -> list[tuple[nn.Parameter, int]]:
        """Return the parameters that an optimizer answers for: its own, and the first one for those of nobody."""
        owned = [{id(p) for group in o.param_groups for p in group["params"]} for o in self._optimizers]
        place = next(i for i, known in enumerate(self._optimizers) if known is optimizer)
        earlier = set[int]().union(*owned[:place])
        nobodys = {id(p) for p in self._owners} - set[int]().union(*owned) if place == 0 else set[int]()
        answers = (owned[place] - earlier) | nobodys
        return [(p, row) for p, row in self._owners.items() if id(p) in answers]

    def fix_layers(self, call: LossCall | None) -> bool:
        """Fix the rows of the layer table and complete the context, from the step that has just been seen.

        Returns:
            False if there was no forward pass to be seen: the next step is to be looked at in another way.
        """
        tracer = self.tracer
        if not tracer.calls and not self.compiled and not tracer.by_parts:
            tracer.by_parts = True  # the root is never called: look at its parts instead
            return False
        self.begun = True
        activation = None if call is None else call.activation
        self.context = self._table.begin(self.context, self._outputs(call), activation)
        self.refresh()
        return True

    def refresh(self) -> bool:
        """Look again at what may change in a training: who owns the parameters, and whether there is a schedule.

        Returns:
            Whether the context has changed.
        """
        before = self.context
        scheduled = before.optimizer.scheduled or any(is_scheduled(optimizer) for optimizer in self._optimizers)
        if scheduled != before.optimizer.scheduled:
            self.context = replace(self.context, optimizer=replace(before.optimizer, scheduled=scheduled))
        self.context = replace(self.context, layers=self._ownership.tell(self.context.layers))
        return self.context != before

    def _outputs(self, call: LossCall | None) -> Tensor | None:
        return call.outputs if call is not None and call.outputs is not None else self.tracer.outputs

    def observation(self, step: int, call: LossCall | None, losses: Mapping[int, Tensor | float]) -> Observation:
        """Bring everything of the sampled step to the host.

        Args:
            step: Its number.
            call: Call of the loss in it, if it was seen.
            losses: Losses of steps since the last sample, by step.

        Returns:
            The observation. What the step has left on the device is dropped.
        """
        if self.compiled and not self._told:
            self._told = True
            unseen = "" if call is not None or step in losses else _LOSS_TOO
            logger.warning("the training loop compiles the forward pass: activations are not measured%s", unseen)
        outputs, targets = self._outputs(call), None if call is None else call.targets
        rows = row_count(outputs, targets)
        batch = self.tracer.batch_size
        if batch is None and call is not None and call.rows:
            batch = call.rows
        resets = self._resets.verdicts()
        scale = self.loss_scale.read() if "loss_scale" in self._needs else float("nan")
        on_device = [value for value in (*losses.values(), *resets, scale) if isinstance(value, Tensor)]
        table, values = self._table.fill(list(self._readings.values()), on_device)
        told = iter(values.tolist())
        known = {at: next(told) if isinstance(value, Tensor) else value for at, value in losses.items()}
        known = {at: value if np.isfinite(value) else float("inf") for at, value in known.items()}
        stale = [next(told) if isinstance(value, Tensor) else value for value in resets]
        scale = next(told) if isinstance(scale, Tensor) else scale
        seen = Observation(
            step=step,
            layers=table,
            loss=known.pop(step, float("nan")),
            learning_rate=learning_rate(self._optimizers[0]),
            batch_size=float("nan") if batch is None else float(batch),
            inputs=to_host(self.tracer.inputs),
            outputs=to_host(rows_of(outputs, rows)),
            targets=to_host(rows_of(targets, rows)),
            losses=sorted(known.items()),
            features=to_host(self.tracer.features),
            scalars={
                **self._table.scalars,
                "stale_gradients": max((value for value in stale if not np.isnan(value)), default=float("nan")),
                "training_mode": self.modes.training,
                "loss_scale": scale,
            },
        )
        self.tracer.forget()
        self._resets.end()
        self._readings = {}
        return seen


def _closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Say whether an optimizer's step was given a closure, from what its hooks are told (the optimizer is first)."""
    return (len(args) > 1 and callable(args[1])) or callable(kwargs.get("closure"))
