"""Watches a training of several processes as one: from the handshake at its first step to one verdict on all ranks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.model.loss_kinds import loss_info
from autotrainer.backends.pytorch.ranks.handshake import Agreement, Handshake
from autotrainer.backends.pytorch.ranks.joint_steps import JointSteps, Totals
from autotrainer.backends.pytorch.ranks.local_step import LocalMeasurement, LocalStep
from autotrainer.backends.pytorch.ranks.rank_row import rank_row
from autotrainer.backends.pytorch.ranks.side_group import SideGroup
from autotrainer.backends.pytorch.runtime.observation import keep_local
from autotrainer.backends.pytorch.runtime.torch_private import collective_count
from autotrainer.monitoring.ranks.comparison import RankComparison, spread
from autotrainer.output import logger
from autotrainer.records.signals import Floats
from autotrainer.records.task import TaskContext
from autotrainer.reporting.coverage import of_ranks

__all__ = ["RankWatch"]

_GAPS = ("replica_gap", "replica_worst_gap")
_DIFFERS = 1e-6
"""Relative difference of weights from which the facts are passed on again: below the threshold of the rule."""
_ENOUGH = 3
"""Steps from which further ones are not passed on alone."""


class RankWatch:
    """One watched training of this process as part of that of all processes.

    At the end of the first sampled step the processes find out whether all of them are watched. If so, they sample the
    same steps, those that hold parts of one model add these up, and the first of them reports for all. If not, each
    process measures what it holds itself.

    Args:
        model: The model.
        monitor: Receives the observations.
        step_measurement: Measures sampled steps.
    """

    def __init__(self, model: nn.Module, monitor: Recorder, step_measurement: LocalMeasurement) -> None:
        self._monitor, self._measurement = monitor, step_measurement
        self._steps: JointSteps | None = None
        self._comparison: RankComparison | None = None
        self._agreement: Agreement | None = None
        self._learned: tuple[Any, ...] = ()
        self._first_lost: int | None = None
        self._stop: bool | None = None
        self._start, self._position = 0, math.nan
        data_parallel = isinstance(model, nn.parallel.DistributedDataParallel)
        group: Any = model.process_group if data_parallel and not step_measurement.shards.spread else None
        self._group = [] if group is None else torch.distributed.get_process_group_ranks(group)
        self._count_collectives = partial(collective_count, model)
        self._synchronized = data_parallel or step_measurement.shards.spread
        self._handshake: Handshake | None = None
        keep_local(step_measurement.shards.spread)
        self.rank, self.world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        with monitor.guard("announcing this process to the others"):
            self._handshake = Handshake.of_process()

    @property
    def agreed(self) -> bool:
        """Whether the processes have found out whether all of them are watched."""
        return self._agreement is not None

    @property
    def joint(self) -> bool:
        """Whether this process measures together with others."""
        return self._steps is not None

    @property
    def follows(self) -> bool:
        """Whether another process decides and reports."""
        return self._steps is not None and not self._steps.leads

    @property
    def stop(self) -> bool | None:
        """Whether all processes are to stop, as the one that reports has found an error; None if each decides."""
        return self._stop if self._steps is None else self._steps.stop

    @property
    def peers(self) -> int | None:
        """Number of processes that add up what they hold parts of; None if this one's values stand for the whole."""
        agreement = self._agreement
        if self._steps is None or agreement is None or not self._measurement.shards.spread:
            return None
        return len(agreement.peers)

    @property
    def oldest(self) -> int | None:
        """The first sampled step that has not been recorded; None if all have been."""
        return None if self._steps is None else self._steps.oldest

    # -- at the first step ------------------------------------------------------------------------------------------

    def agree(self, step: int, context: TaskContext, weights: float, *, has_loss: bool) -> TaskContext:
        """Find out whether all processes are watched, at the end of the first sampled step.

        Args:
            step: The step.
            context: The context so far.
            weights: Norm of all weights.
            has_loss: Whether this process has computed a loss in the step.

        Returns:
            The context, completed.
        """
        spread_out = self._measurement.shards.spread
        # Stages of a pipeline may be built alike: without a loss, it takes equal weights to be replicas.
        apart = "" if has_loss or spread_out else repr(weights)
        text = f"{self._measurement.description} {self._measurement.layout} {has_loss} {apart} {self._group}"
        self._agreement = Agreement((self.rank,), 1, (), together=False)
        with self._monitor.guard("agreeing with the other processes"):
            if self._handshake is not None:
                digest = hashlib.sha256(text.encode()).hexdigest()[:16]
                self._agreement = self._handshake.agree(digest, synchronized=self._synchronized)
        agreement = self._agreement
        facts = {"ranks": float(self.world), "rank": float(self.rank)}
        facts |= {"sharded": 1.0} if spread_out else {}
        if not agreement.together:
            facts["watched_ranks"] = float(max(1, self.world - len(agreement.missing)))
            facts |= {"unwatched_rank": float(agreement.missing[0])} if agreement.missing else {}
        else:
            self._join(step, agreement)
            facts |= {} if self.joint else {"parted_at": float(step)}
        if agreement.stages > 1:
            facts["stages"] = float(agreement.stages)
            if not has_loss:
                facts["inner_stage"] = 1.0
                layers = tuple(replace(layer, hidden=True) for layer in context.layers)
                context = replace(
                    context, layers=layers, loss=loss_info(None), output_activation=None, output_units=None
                )
        if self.follows:
            facts["led_by"] = float(agreement.peers[0])
            self._monitor.learn(facts)
            self._monitor.follow()
        else:
            self._monitor.release()
            self._monitor.learn(facts)
            if not agreement.together:
                for sentence in of_ranks(replace(context, asked=facts)):
                    logger.warning("%s", sentence)
        self._handshake = None
        return context

    def _join(self, step: int, agreement: Agreement) -> None:
        """Begin to measure together with the processes that train the same."""
        if self._handshake is None:
            return
        with self._monitor.guard("connecting with the other processes"):
            shards = self._measurement.shards
            rows, parts = self._measurement.layout
            size = parts if shards.spread else 2 * rows
            group = SideGroup(self._handshake.store, agreement.peers, self.rank)
            self._steps = JointSteps(agreement, group, self.rank, size, step, self._monitor.sampler)
            keep_local(False)
            self._start, self._position = step, self._count_collectives()
            self._comparison = RankComparison(
                agreement.peers, replicas=not shards.spread, parallel_data=shards.parallel_data
            )

    # -- sampled steps ----------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Return whether to sample the step that is about to begin, as all processes do."""
        steps = self._steps
        try:
            return steps is not None and steps.due(step)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._part(step, error)
            return not self._monitor.closed and self._monitor.sampler.due(step)

    @property
    def next_step(self) -> int:
        """The earliest step that this must be asked about."""
        return 0 if self._steps is None else self._steps.next_step

    def record(self, measured: LocalStep, extra: Sequence[int]) -> None:
        """Record a sampled step, once the other processes have given what they hold.

        Args:
            measured: The measurements of this process.
            extra: Further steps to be sampled, where this process decides.
        """
        steps, observation = self._steps, measured.observation
        if steps is None:
            self._monitor.record(measured.complete())
            return
        spread_out = self._measurement.shards.spread
        weights, gradients = measured.weights, measured.gradients
        array = measured.parts if spread_out else np.concatenate([_known(weights), _known(weights) ** 2])
        self.note_losses([*observation.losses, (observation.step, observation.loss)])
        first_lost = None if self._first_lost is None else self._first_lost - self._start
        row = rank_row(measured, weights, gradients, self._count_collectives() - self._position, first_lost)
        try:
            stop = self._monitor.has_error
            steps.give(observation.step, array, row, self._recorder(measured, weights), extra, stop=stop)
        except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
            self._part(observation.step, error)

    def note_losses(self, losses: Iterable[tuple[int, float]]) -> None:
        """Note the first loss of this process that is not finite, for the others.

        Args:
            losses: Step and loss; infinite for what is not finite.
        """
        if self._first_lost is None:
            self._first_lost = min((step for step, loss in losses if math.isinf(loss)), default=None)

    def _recorder(self, measured: LocalStep, weights: Floats) -> Callable[[Totals | None], None]:
        def record(totals: Totals | None) -> None:
            complete = totals is not None and totals.complete
            if self._measurement.shards.spread:
                measured.add_up(totals.sums if totals is not None and complete else None)
            if totals is not None:
                self._compare(totals, weights)
            if not self._monitor.closed:
                self._monitor.record(measured.complete())

        return record

    def _compare(self, totals: Totals, weights: Floats) -> None:
        if self._comparison is None:
            return
        gaps = None
        if not self._measurement.shards.spread:
            sums, squares = np.split(totals.sums, 2)
            gaps = spread(sums, squares, len(totals.ranks))
        facts = self._comparison.add(totals.ranks, gaps, weights > 0)
        signature = tuple(
            sorted(
                (name, value > _DIFFERS if name in _GAPS else min(value, _ENOUGH) if name == "replica_steps" else value)
                for name, value in facts.items()
                if not name.endswith("_ratio") and name != "replica_layer"
            )
        )
        if signature != self._learned:
            self._learned = signature
            self._monitor.learn(facts)

    # -- the end ----------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Have all steps recorded so far, without what other processes have not given within a second."""
        if self._steps is not None and self._steps.leads and not self._monitor.closed:
            try:
                self._steps.settle()
            except Exception as error:  # noqa: BLE001 - nothing may reach the user's loop
                self._part(self._monitor.history.step, error)

    def close(self) -> None:
        """Leave the other processes; nobody is waited for."""
        if self._monitor.closed:  # in a forked child: store and group are those of the parent
            return
        if self._agreement is None and self._handshake is not None:
            self._agreement = Agreement((self.rank,), 1, (), together=False)
            with self._monitor.guard("leaving the other processes"):
                if self.rank and self._handshake.leader_watches:
                    self._monitor.learn({"led_by": 0.0})
                    self._monitor.follow()
            self._monitor.release()
        keep_local(False)
        steps, self._steps, self._handshake = self._steps, None, None
        if steps is not None:
            steps.leave()

    def _part(self, step: int, error: Exception) -> None:
        """Measure alone from now on, as others no longer take part; a process that does not report measures no more."""
        steps, self._steps = self._steps, None
        if steps is None:
            return
        self._stop = steps.stop  # if the first process decided alone from now on, it would leave the loop alone
        keep_local(self._measurement.shards.spread)
        if steps.leads:
            self._monitor.learn({"parted_at": float(step)})
            logger.warning("the processes are no longer measured together, since step %d: %s", step, error)
        else:
            self._monitor.sampler.stop()
        steps.leave()


def _known(norms: Floats) -> Floats:
    return np.where(np.isnan(norms), 0.0, norms)
