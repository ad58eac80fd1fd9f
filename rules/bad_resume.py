"""AT416: a training that goes on without all of what it had."""

from __future__ import annotations

import math

import numpy as np

from autotrainer.rule import Finding, Rule, RunHistory, Severity, TaskContext, Threshold, thresholds
from autotrainer.rules._shared.outcome import OUTCOME_NEEDS
from autotrainer.rules._shared.words import about

__all__ = ["BadResume"]

_LOST = 20
"""Steps of an optimizer's memory or of a schedule that matter: its moments have forgotten their start by then."""

_SIGMAS = 3.0
"""Rise of the median loss beyond the spread of single losses, in standard deviations of the median's noise."""

_MIN_LOSSES = 10
"""Losses that the median at the start is made of."""

_RISEN = 2.0
"""Learning rate ÷ that at the end of the earlier run from which the schedule has begun again."""

_REPEATED = 0.9
"""Share of equal batches from which the data have begun again."""

_NOT_BETTER = 1.0
"""Loss at present ÷ that at the end of the earlier run from which the run has not made up for the jump."""


class BadResume(Rule):
    """A resumed training has lost the memory of its optimizer, its learning-rate schedule or its place in the data.

    What it does
        Compares the start of the training with the end of the earlier one that it continues, and the optimizer with its
        learning-rate scheduler.

    Why it hurts
        Adam with an empty memory takes steps of full size in all directions; a schedule that begins again raises the
        rate that had been lowered; data that begin again are learned twice while the rest of the epoch never comes. The
        loss jumps, and hours may pass until it is where it was.

    Evidence used
        The steps that optimizer and scheduler count at the first sampled step: one of them at its start while the other
        goes on. With ``log_dir``, also the latest earlier log in the same folder, or the log that is given to
        `replay` as ``previous``: a run continues it if its weights begin where those ended. Then losses, rate, counts,
        and the statistics of the batches of both.

    Thresholds
        ``jump``: median of the first losses ÷ that of the last losses before, from which the loss has jumped, beyond
        the noise of these.

    When it is wrong
        A second phase of a training may use a new optimizer or schedule on purpose. Without a jump of the loss it is
        therefore at most a warning, and a fact if the earlier run had reached its end, or if without its log only the
        scheduler begins anew. A jump is an error only if the loss has not come back. Optimizers without a counter, such
        as SGD, show no loss of memory.

    Repairs
        None. By hand: save and load the states of model, optimizer, scheduler and loss scaler together, and skip the
        batches of the epoch that were already used.

    References
        PyTorch tutorials, "Saving and loading a general checkpoint"; documentation of `torch.optim.lr_scheduler`
        (restoring a checkpoint).
    """

    problem = "bad_resume"
    code = "AT416"
    aliases = ("resume", "checkpoint_resume", "optimizer_state_lost", "loss_jumps_after_resume")
    phrases = (
        "loss jumps after resuming",
        "resume training from checkpoint",
        "optimizer state not loaded",
        "scheduler restarts after resume",
        "learning rate after resume",
    )
    needs = OUTCOME_NEEDS | frozenset({"optimizer_steps", "scheduler_steps", "learning_rate"})
    needs |= {"resumed_complete", "resumed_steps", "resumed_within_epoch"}
    needs |= {"resumed_loss", "resumed_loss_noise", "resumed_first_loss"}
    needs |= {"resumed_rate", "resumed_optimizer_steps", "resumed_scheduler_steps", "resumed_same_batches"}
    place = "optimizer"
    THRESHOLDS = thresholds(
        jump=Threshold(1.2, "first losses ÷ last losses before, at least", "a fifth is more than an epoch gains", 1.0),
    )

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        if not len(history.steps):
            return None
        facts = context.asked
        evidence: dict[str, float] = {}
        lost = self._lost(history, context, evidence)
        resumed = "resumed_steps" in facts
        jump = self._jump(history, context, evidence) if resumed else math.nan
        jumped = jump >= self.threshold("jump")
        if not (lost or jumped):
            return None
        start = "The training"
        if resumed:
            evidence["resumed_steps"] = facts["resumed_steps"]
            start = f"The training continues one of {facts['resumed_steps']:.0f} steps"
        parts = list(lost)
        if jumped:
            before, first = facts["resumed_loss"], facts["resumed_first_loss"]
            parts.append(f"the loss jumps from {about(before, 3)} to {about(first, 3)}")
        message = (
            f"{start}, but {' and '.join(parts)}." if resumed else f"The training was resumed in part: {parts[0]}."
        )
        severity, confidence = Severity.INFO, 0.6
        if jumped:
            severity, confidence = (Severity.ERROR if self._lasting(history, context) else Severity.WARNING), 0.9
        elif (resumed or "optimizer_steps" in evidence) and not facts.get("resumed_complete", 0.0) >= 1:
            severity, confidence = Severity.WARNING, 0.8
        return self.finding(severity, confidence, message, evidence)

    def _lost(self, history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> list[str]:
        """Return what the training has lost, as clauses."""
        facts = context.asked
        done = float(history.steps[0]) + 1
        memory = float(history.scalar("optimizer_steps")[0]) - done
        schedule = float(history.scalar("scheduler_steps")[0])
        counted_before = schedule - done * _pace(history)
        clauses = []
        memory_before = facts.get("resumed_optimizer_steps", math.nan)
        schedule_before = facts.get("resumed_scheduler_steps", math.nan)
        if memory <= 0 and (memory_before >= _LOST or counted_before >= _LOST):
            evidence["optimizer_steps"] = max(0.0, memory)
            counted = f"after {memory_before:.0f} steps" if memory_before >= _LOST else ""
            counted = counted or f"although its scheduler is at step {schedule:.0f}"
            clauses.append(f"the memory of the optimizer is empty {counted}")
        rate, rate_before = float(history.scalar("learning_rate")[0]), facts.get("resumed_rate", math.nan)
        at_start = schedule <= done and (schedule_before >= _LOST or memory >= _LOST)
        raised = rate >= _RISEN * rate_before
        if raised or (context.optimizer.scheduled and at_start):
            evidence |= {"learning_rate": rate} | ({"scheduler_steps": schedule} if math.isfinite(schedule) else {})
            if raised:
                clauses.append(f"the learning rate is {about(rate)} again, after {about(rate_before)}")
            elif schedule_before >= _LOST:
                clauses.append("the learning-rate schedule begins again")
            else:
                clauses.append(f"the optimizer has taken {memory:.0f} steps before, but its scheduler begins anew")
        if facts.get("resumed_same_batches", 0.0) >= _REPEATED and facts.get("resumed_within_epoch", 0.0) >= 1:
            evidence["same_batches"] = facts["resumed_same_batches"]
            clauses.append("the data begin again, although an epoch was not over")
        return clauses

    def _jump(self, history: RunHistory, context: TaskContext, evidence: dict[str, float]) -> float:
        """Return the first losses ÷ the last ones of the earlier run; NaN if that is noise, or unknown."""
        facts = context.asked
        before, first = facts.get("resumed_loss", math.nan), facts.get("resumed_first_loss", math.nan)
        noise = facts.get("resumed_loss_noise", math.nan) * 1.25 / math.sqrt(_MIN_LOSSES)
        if not (before > 0 and math.isfinite(first) and first - before >= _SIGMAS * noise):
            return math.nan
        evidence |= {"loss_before": before, "first_loss": first}
        return first / before

    @staticmethod
    def _lasting(history: RunHistory, context: TaskContext) -> bool:
        losses = history.losses[1]
        losses = losses[np.isfinite(losses)]
        late = losses[-max(1, len(losses) // 4) :]
        return (
            history.finished and len(late) > 0 and bool(np.median(late) >= _NOT_BETTER * context.asked["resumed_loss"])
        )


def _pace(history: RunHistory) -> float:
    """Return the steps of the scheduler for each step of the optimizer at the start, at least 1."""
    taken, steps = np.diff(history.scalar("scheduler_steps")[:2]), np.diff(history.steps[:2])
    return max(1.0, float(taken[0] / steps[0])) if len(steps) and np.isfinite(taken[0]) and steps[0] > 0 else 1.0
