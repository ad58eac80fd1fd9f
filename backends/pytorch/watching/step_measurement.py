"""Measures single steps: sets hooks, removes them, and makes an observation of what they recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from autotrainer.adapter.stopwatch import Stopwatch
from autotrainer.backends.pytorch.model.describe import is_scheduled, learning_rate, steps_in_memory
from autotrainer.backends.pytorch.model.ties import Ties
from autotrainer.backends.pytorch.optim.optimizers import parameter_ids
from autotrainer.backends.pytorch.optim.outside_parameters import OutsideParameters
from autotrainer.backends.pytorch.optim.parameter_ownership import ParameterOwnership
from autotrainer.backends.pytorch.ranks.processes import several_ranks
from autotrainer.backends.pytorch.ranks.shards import Shards
from autotrainer.backends.pytorch.runtime.hooks import is_compiled
from autotrainer.backends.pytorch.runtime.observation import observation, paused_collector
from autotrainer.backends.pytorch.runtime.torch_private import compiled_frames
from autotrainer.backends.pytorch.runtime.weak_sequence import WeakSequence
from autotrainer.backends.pytorch.statistics.backward_passes import BackwardPasses
from autotrainer.backends.pytorch.statistics.forward_tracer import ForwardTracer
from autotrainer.backends.pytorch.statistics.host_transfer import receive
from autotrainer.backends.pytorch.statistics.layer_table import LayerTable
from autotrainer.backends.pytorch.statistics.row_sums import RowSums, Summands
from autotrainer.backends.pytorch.statistics.stats import row_count, rows_of, to_host
from autotrainer.backends.pytorch.statistics.weights import OptimizerStepStats, owners
from autotrainer.backends.pytorch.watching.losses.loss_call import LossCall
from autotrainer.backends.pytorch.watching.losses.loss_scale import LossScale
from autotrainer.backends.pytorch.watching.losses.loss_targets import row_weights, sequences
from autotrainer.backends.pytorch.watching.measured_step import MeasuredStep
from autotrainer.backends.pytorch.watching.mode_tracker import ModeTracker
from autotrainer.backends.pytorch.watching.zero_grad_check import ZeroGradCheck
from autotrainer.monitoring.guard import StatisticGuard
from autotrainer.output import logger
from autotrainer.records.signals import ALL_PAIRS, LayerInfo, Observation
from autotrainer.records.task import TaskContext

__all__ = ["StepMeasurement"]

_PATIENCE = 5
"""First steps whose forward pass was not recorded because the model was scripted just before."""

_LOSS_TOO = ", and the loss can't be observed: call monitor.log(loss=..., outputs=..., targets=...)"


class StepMeasurement:
    """Measures single steps of a training, from the end of the previous step to their own end.

    Args:
        model: The model.
        optimizers: Its optimizers; a step is one step of the first.
        context: The context so far.
        fail: Called with an exception of a hook; nothing is ever raised into the training.
        guard: Measures statistics, so that one that fails is left out alone.
        needs: Columns to measure; costly statistics that none of them needs are skipped.
        steps: Returns the number of steps done.
        stopwatch: Measures the time spent in the hooks.
        on_evaluation: Called at a pass without gradients, as far as passes are tracked.
        modules: What `watched_modules` returns for the model.
        infos: What `layer_info` returns for each of these.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: tuple[Optimizer, ...],
        context: TaskContext,
        fail: Callable[[Exception], None],
        guard: StatisticGuard,
        needs: frozenset[str],
        steps: Callable[[], int],
        stopwatch: Stopwatch,
        on_evaluation: Callable[[], None],
        modules: Mapping[str, nn.Module],
        infos: Sequence[LayerInfo],
    ) -> None:
        self.stopwatch = stopwatch
        self.context = context
        self.compiled = is_compiled(model)
        """Whether the model is compiled and takes no hooks: from the start, or since a hook was compiled."""
        self.unseen = 0
        """Layers whose calls in the latest sampled step were compiled."""
        self._compiled_before = compiled_frames()
        on_error = partial(guard.fail, "forward pass")
        self.tracer = ForwardTracer(
            model, on_error, guard, needs=needs, stopwatch=stopwatch, modules=modules, infos=infos
        )
        self.sampling = False
        """Whether the current step is sampled."""
        self.layers_fixed = False
        """Whether the rows of the layer table are fixed."""
        self.constant_rate = False
        """Whether a schedule that is attached leaves the learning rate as it is."""
        self.mode_tracker = ModeTracker(model, steps, partial(guard.fail, "modes"), stopwatch, on_evaluation)
        self.loss_scale = LossScale()
        self._optimizers = WeakSequence(optimizers)
        self._fail, self._guard = fail, guard
        self._needs = needs
        self._zero_grad_check = ZeroGradCheck(optimizers[0], partial(guard.fail, "gradient reset"), stopwatch)
        self.backward_passes = BackwardPasses(optimizers[0], partial(guard.fail, "backward passes"), stopwatch)
        self._ownership = ParameterOwnership(model, optimizers, modules)
        self._outside = OutsideParameters(model, optimizers)
        if not several_ranks():
            self.tracer.on_outputs = partial(guard.measure, "outputs", self._outside.note)
        self._ties = Ties(model, modules)
        self._table = LayerTable(self.tracer)
        self._rows = owners(self.tracer.modules)
        self._summands = Summands(self._rows, self._table.shards)
        self._parts = self._table.parts if "query_rms" in needs else {}
        self._step_stats: dict[int, OptimizerStepStats] = {}
        self._begun: set[int] = set()  # optimizers whose present step has its statistics
        self._handles: list[RemovableHandle] = []
        self._warned_compiled = self.compiled
        self._step_compiled = False
        self._interruptions = 0

    @property
    def shards(self) -> Shards:
        """How the parameters are spread over processes."""
        return self._table.shards

    @property
    def description(self) -> str:
        """Describes what is trained: equal in all processes that hold replicas or parts of one model."""
        rows = [
            f"{name}:{type(module).__name__}"
            for name, module in zip(self.tracer.names, self.tracer.modules, strict=True)
        ]
        return "|".join([*rows, *(f"{row}{self.shards.description(p)}" for p, row in self._rows.items())])

    @property
    def layout(self) -> tuple[int, int]:
        """Number of rows of the layer table, and length of `MeasuredStep.parts`."""
        rows = len(self.tracer.modules)
        return rows, RowSums(rows).values.size + self._summands.size

    def weight_norm(self) -> float:
        """Return the norm of all weights before the step of the first optimizer; waits for the device."""
        norms = [norm for stats in self._step_stats.values() for norm in stats.weight_norms]
        return float(np.linalg.norm([float(norm) for norm in norms])) if norms else 0.0

    def begin(self) -> None:
        """Set the hooks for the step that begins."""
        self.sampling = True
        self._step_stats, self._begun = {}, set()
        self._summands.clear()
        if not self.compiled:
            self.tracer.arm()
            self.mode_tracker.begin()
        if self._step_compiled:  # hooks would cause another compilation each time: read the weights now
            self._read_weights(self._optimizers.first)
            return
        self._guard.measure("gradient reset", self._zero_grad_check.begin)
        self._guard.measure("backward passes", self.backward_passes.begin)
        for optimizer in self._optimizers:
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
        for optimizer in list(self._optimizers)[1:]:
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def trace_parts(self) -> None:
        """Hook the layers themselves, as the model is never called; also in the present step."""
        self.tracer.by_parts = True
        if self.sampling and not self.compiled:
            self.tracer.arm()

    def end(self) -> None:
        """Remove the hooks."""
        self.sampling = False
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._zero_grad_check.stop()
        self.backward_passes.end()
        self.mode_tracker.end()
        self.tracer.disarm()
        self.compiled |= self.tracer.compiled
        self.unseen = self._count_unseen()

    def _count_unseen(self) -> int:
        """Return how many layers were not called because their calls are compiled, as far as can be told."""
        tracer = self.tracer
        if self.compiled:
            return len(tracer.modules)
        if tracer.failed or tracer.interrupted:
            return 0
        # Without any call, the layers may be parts of a container that is never called itself.
        compiled = compiled_frames() > (0 if tracer.calls or tracer.by_parts else self._compiled_before)
        return len(tracer.modules) - len(tracer.calls) if compiled else 0

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling():
            self._step_compiled = True
            return
        with self.stopwatch, paused_collector():
            try:
                with observation():
                    if id(optimizer) in self._begun:
                        return  # the gradients have been read
                    self._read_weights(optimizer)
                    if optimizer is self._optimizers.first:
                        self._guard.measure("backward passes", self.backward_passes.before_step, optimizer)
                    if not _has_closure(args, kwargs):
                        self._read_gradients(optimizer)
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._fail(error)

    def read_gradients(self, optimizer: Optimizer) -> None:
        """Read the gradients that a step of an optimizer is about to take, or takes: they may still be clipped."""
        if is_compiling() or not any(optimizer is each for each in self._optimizers):
            return
        with self.stopwatch, paused_collector():
            try:
                with observation():
                    if id(optimizer) not in self._begun:
                        self._read_weights(optimizer)
                    if optimizer is self._optimizers.first:
                        self._guard.measure("backward passes", self.backward_passes.before_step, optimizer)
                    self._read_gradients(optimizer)
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._fail(error)

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if is_compiling():
            self._step_compiled = True
            return
        with self.stopwatch, paused_collector():
            try:
                with observation():
                    self.compare_step(optimizer)
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._fail(error)

    def compare_step(self, optimizer: Optimizer) -> None:
        """Read what the step of an optimizer has changed."""
        self._begun.discard(id(optimizer))
        stats = self._step_stats.get(id(optimizer))
        if stats is not None:
            stats.compare(optimizer)

    def _read_weights(self, optimizer: Optimizer) -> None:
        """Read the weights before the step of an optimizer."""
        self._begun.add(id(optimizer))
        parameters = self._parameters_of(optimizer)
        options = self._needs, self._parts, self._guard, self.shards
        stats = self._guard.measure("weights", OptimizerStepStats, parameters, *options)
        if stats is not None:
            self._step_stats[id(optimizer)] = stats

    def _read_gradients(self, optimizer: Optimizer) -> None:
        stats = self._step_stats.get(id(optimizer))
        if stats is not None:
            stats.read_gradients(optimizer)
        self._guard.measure("gradients", self._summands.read, optimizer)
        self._guard.measure("embeddings", self.tracer.embeddings.read_gradients, optimizer)

    def _parameters_of(self, optimizer: Optimizer) -> list[tuple[nn.Parameter, int]]:
        """Return the parameters of an optimizer without those of earlier ones; the first also has the unowned ones."""
        owned = [parameter_ids(each) for each in self._optimizers]
        position = next(i for i, each in enumerate(self._optimizers) if each is optimizer)
        earlier = set[int]().union(*owned[:position])
        unowned = {id(p) for p in self._rows} - set[int]().union(*owned) if position == 0 else set[int]()
        ids = (owned[position] - earlier) | unowned
        return [(p, row) for p, row in self._rows.items() if id(p) in ids]

    def fix_layers(self, call: LossCall | None) -> bool:
        """Fix the rows of the layer table and complete the context, from the step that has just been measured.

        Returns:
            False if no forward pass was recorded: the next step is measured in another way.
        """
        tracer = self.tracer
        if not (tracer.calls or tracer.failed or self.unseen):
            self._interruptions += tracer.interrupted
            if tracer.interrupted and self._interruptions < _PATIENCE:
                return False
            if not (tracer.by_parts or tracer.interrupted):
                tracer.by_parts = True  # the root is never called: hook its parts instead
                return False
        self.layers_fixed = True
        activation = None if call is None else call.activation
        self.context = self._table.begin(self.context, self._outputs(call), activation)
        self.refresh()
        return True

    def refresh(self) -> bool:
        """Update what may change in a training: the ownership of parameters, and whether there is a schedule.

        Returns:
            Whether the context has changed.
        """
        before = self.context
        scheduled = before.optimizer.scheduled or any(is_scheduled(optimizer) for optimizer in self._optimizers)
        scheduled &= not self.constant_rate
        if scheduled != before.optimizer.scheduled:
            self.context = replace(self.context, optimizer=replace(before.optimizer, scheduled=scheduled))
        layers = self._ownership.annotate(self.context.layers)
        layers = self._guard.measure("tied weights", self._ties.annotate, layers) or layers
        self.context = replace(self.context, layers=layers)
        return self.context != before

    def _outputs(self, call: LossCall | None) -> Tensor | None:
        return call.outputs if call is not None and call.outputs is not None else self.tracer.outputs

    def _scale(self) -> Tensor | float | None:
        return self._guard.measure("loss scale", self.loss_scale.read) if "loss_scale" in self._needs else None

    def observation(
        self,
        step: int,
        call: LossCall | None,
        losses: Mapping[int, Tensor | float],
        terms: Mapping[str, Tensor | float] | None = None,
        peers: int | None = None,
    ) -> MeasuredStep:
        """Transfer everything of the sampled step to the host.

        Args:
            step: Its number.
            call: Call of the loss in it, if observed.
            losses: Losses of steps since the last sample, by step.
            terms: Terms of the loss that the loop reports, by name; those in the autograd graph if there are none.
            peers: Number of processes that will add up what they hold parts of; None: this one stands for the whole.

        Returns:
            The measurements. Tensors of the step are dropped.
        """
        if self.unseen and not self._warned_compiled:
            self._warned_compiled = True
            loss = "" if call is not None or step in losses else _LOSS_TOO
            if self.unseen < len(self.tracer.modules):
                text = "a part of the forward pass is compiled: activations are not measured in %d of %d layers%s"
                logger.warning(text, self.unseen, len(self.tracer.modules), loss)
            else:
                logger.warning("the training loop compiles the forward pass: activations are not measured%s", loss)
        outputs, targets = self._outputs(call), None if call is None else call.targets
        rows = row_count(outputs, targets)
        batch = self.tracer.batch_size
        if batch is None and call is not None and call.rows:
            batch = call.rows
        measure = self._guard.measure
        reported, names = dict(terms or {}), list(terms or {})
        numbers: dict[str, list[Any]] = {
            "loss": list(losses.values()),
            "gradient reset": measure("gradient reset", self._zero_grad_check.verdicts) or [],
            "loss scale": [self._scale()],
            "loss of outputs": [] if call is None or call.alone is None else [call.alone],
            "loss terms": [reported[name] for name in names],
            "optimizer state": [measure("optimizer state", steps_in_memory, self._optimizers.first)],
            "backward passes": measure("backward passes", self.backward_passes.scalars) or [],
        }
        on_host: dict[str, list[float]] = {name: [] for name in numbers}
        others = [
            receive(name, [float("nan") if value is None else value for value in values], on_host[name])
            for name, values in numbers.items()
        ]
        others += self._summands.results(peers)
        table = self._table.fill(list(self._step_stats.values()), others, peers)
        by_step = {
            at: value if np.isfinite(value) else float("inf")
            for at, value in zip(losses, on_host["loss"], strict=False)
        }
        stale = [value for value in on_host["gradient reset"] if not np.isnan(value)]
        scale = next(iter(on_host["loss scale"]), float("nan"))
        columns, terms_in_graph = dict[str, float](), dict[str, float]()
        if on_host["backward passes"]:
            values = measure("backward passes", self.backward_passes.values, on_host["backward passes"], scale)
            columns, terms_in_graph = values or (columns, terms_in_graph)
        named = {
            name: v if np.isfinite(v) else float("inf") for name, v in zip(names, on_host["loss terms"], strict=False)
        }
        rate = measure("learning rate", learning_rate, self._optimizers.first)
        observation = Observation(
            step=step,
            layers=np.zeros((0, 0)),
            loss=by_step.pop(step, float("nan")),
            learning_rate=float("nan") if rate is None else rate,
            batch_size=float("nan") if batch is None else float(batch),
            inputs=measure("inputs", to_host, self.tracer.inputs),
            outputs=measure("outputs", _rows_to_host, outputs, rows),
            targets=measure("targets", _rows_to_host, targets, rows),
            losses=sorted(by_step.items()),
            features=measure("features of the output layer", to_host, self.tracer.features),
            scalars={
                **self._table.scalars,
                "stale_gradients": max(stale, default=float("nan")),
                "training_mode": self.mode_tracker.training,
                "loss_scale": scale,
                **({"data_loss": alone[0]} if (alone := on_host["loss of outputs"]) else {}),
                **columns,
                "optimizer_steps": next(iter(on_host["optimizer state"]), float("nan")),
                "direct_loss": float("nan") if call is None or call.direct is None else float(call.direct),
                "crossed_shapes": _crossed(call),
                **(measure("weights", self._outside.values) or {}),
            },
            terms=named or terms_in_graph,
            labels=measure("targets", sequences, call, batch),
            tokens=measure("inputs", to_host, self.tracer.tokens),
        )
        observation.weights = measure("targets", row_weights, call, observation.targets)
        self.tracer.clear()
        self._zero_grad_check.end()
        self._step_stats = {}
        return MeasuredStep(observation, table, self._summands)


def _rows_to_host(tensor: Tensor | None, rows: int) -> NDArray[Any] | None:
    return to_host(rows_of(tensor, rows))


def _crossed(call: LossCall | None) -> float:
    """Return `crossed_shapes` of a call."""
    if call is not None and call.pairwise:
        return ALL_PAIRS
    return float("nan") if call is None or call.crossed is None else float(call.crossed)


def _has_closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an optimizer's step has a closure, from the arguments of its hooks (the optimizer is first)."""
    return (len(args) > 1 and callable(args[1])) or callable(kwargs.get("closure"))
