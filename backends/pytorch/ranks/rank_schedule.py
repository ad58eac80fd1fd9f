"""Which steps are sampled, and when they are recorded: by this process alone, or by all ranks together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from autotrainer.adapter.observer import Recorder
from autotrainer.backends.pytorch.ranks.local_step import LocalMeasurement, LocalStep
from autotrainer.backends.pytorch.ranks.processes import several_ranks
from autotrainer.backends.pytorch.ranks.rank_watch import RankWatch
from autotrainer.backends.pytorch.runtime.observation import observation
from autotrainer.output import logger
from autotrainer.records.task import TaskContext
from autotrainer.reporting.coverage import of_ranks

__all__ = ["RankSchedule"]


class RankSchedule:
    """Asks the ranks, where they are measured together, and the sampler of this process elsewhere.

    Args:
        ranks: The other processes of the training; None where there are none.
        monitor: Receives the observations.
    """

    def __init__(self, ranks: RankWatch | None, monitor: Recorder) -> None:
        self._ranks, self._monitor = ranks, monitor

    @classmethod
    def of_process(
        cls, model: torch.nn.Module, monitor: Recorder, measurement: LocalMeasurement, *, joins: bool
    ) -> RankSchedule:
        """Return the schedule of this process, which joins others or stays alone."""
        return cls(RankWatch(model, monitor, measurement) if joins else None, monitor)

    @property
    def alone(self) -> bool:
        """Whether there are no other processes."""
        return self._ranks is None

    @property
    def joint(self) -> bool:
        """Whether the processes are measured together."""
        return self._ranks is not None and self._ranks.joint

    @property
    def stop(self) -> bool | None:
        """Whether all processes are to stop; None if each decides."""
        return None if self._ranks is None else self._ranks.stop

    @property
    def peers(self) -> int | None:
        """Number of processes that add up what they hold parts of; None if this one's values stand for the whole."""
        return None if self._ranks is None else self._ranks.peers

    @property
    def next_step(self) -> int:
        """The earliest step that `due` must be asked about."""
        if self._ranks is not None and self._ranks.joint:
            return self._ranks.next_step
        return self._monitor.sampler.next_step

    def due(self, step: int) -> bool:
        """Return whether to sample the step that is about to begin."""
        if self._ranks is None or not self._ranks.joint or self._monitor.closed:  # closed in a forked child
            return self._monitor.sampler.due(step)
        with observation(), self._monitor.sampler.stopwatch:
            return self._ranks.due(step)

    def agree(
        self, step: int, context: TaskContext, weights: Callable[[], float], *, has_loss: bool
    ) -> TaskContext | None:
        """Find out at the end of the first sampled step whether all ranks are watched; see `RankWatch.agree`.

        Args:
            step: The step.
            context: The context so far.
            weights: Returns the norm of all weights.
            has_loss: Whether this process has computed a loss in the step.

        Returns:
            The context, completed; None if there is nothing to find out.
        """
        if self._ranks is None and several_ranks() and "late_group" not in self._monitor.context.asked:
            self._note_late_group()
        if self._ranks is None or self._ranks.agreed:
            return None
        return self._ranks.agree(step, context, weights(), has_loss=has_loss)

    def _note_late_group(self) -> None:
        """Report that the processes have connected only since the training is watched: each is watched by itself."""
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        facts = {"ranks": float(world), "rank": float(rank), "late_group": 1.0}
        context = self._monitor.context
        if not context.managed:
            self._monitor.learn(facts)
            for sentence in of_ranks(replace(context, asked=facts)) if rank == 0 else ():
                logger.warning("%s", sentence)

    def advance(self, step: int) -> None:
        """Set the latest step; not beyond one that waits for other ranks, as records go by steps."""
        oldest = None if self._ranks is None else self._ranks.oldest
        self._monitor.advance(step if oldest is None else min(step, oldest))

    def record(self, measured: LocalStep, extra: Sequence[int]) -> None:
        """Record a sampled step; with the other ranks, once they have given what they hold.

        Args:
            measured: The measurements of this process.
            extra: Further steps to be sampled.
        """
        if self._monitor.context.asked.get("inner_stage"):
            measured.observation = replace(measured.observation, outputs=None)
        if self._ranks is None or not self._ranks.joint:
            self._monitor.record(measured.complete())
        else:
            self._ranks.record(measured, extra)

    def note_losses(self, losses: Iterable[tuple[int, float]]) -> None:
        """Note losses of this process, for the others."""
        if self._ranks is not None:
            self._ranks.note_losses(losses)

    def settle(self) -> None:
        """Have everything recorded that waits for other ranks."""
        if self._ranks is not None:
            self._ranks.settle()

    def close(self) -> None:
        """Leave the other ranks."""
        if self._ranks is not None:
            self._ranks.close()
