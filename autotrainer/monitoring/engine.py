"""The engine: evaluates rules on a history and tracks episodes and causes of their findings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from autotrainer import plugins
from autotrainer.output import logger
from autotrainer.records.findings import Finding, Severity, rank_findings
from autotrainer.records.history import RunHistory
from autotrainer.records.loss_identity import with_identified_loss
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place, Rule

__all__ = ["CheckSchedule", "Engine"]

_MIN_CAUSE_CONFIDENCE = 0.5
"""Minimum confidence of a problem to be named as the cause of another one."""
_DOUBTFUL = 0.55
"""Confidence up to which a cause gives way to any other one."""
_MAX_NAMED = 3
"""Rules that a warning names, of those that fail for the same reason."""


class CheckSchedule:
    """Decides when the rules are evaluated: often at first, seldom in long histories, where they take longest.

    Attributes:
        first_step: Step from which the steps are counted: a resumed run is checked as often as one that begins.
    """

    def __init__(self) -> None:
        self.first_step = 0
        self._next = 0
        self._lost = False

    def due(self, step: int) -> bool:
        """Return whether a check is due at a step."""
        return step >= self._next

    def advance(self, step: int) -> None:
        """Set the next check behind one that is due at a step: the more steps are done, the later."""
        done = step - self.first_step
        self._next = step + max(2, done // (2 if done < 32 else 8))

    def newly_lost(self, lost: bool) -> bool:
        """Return whether a value is the first that is not finite; ``lost`` says whether it is one."""
        newly, self._lost = lost and not self._lost, lost or self._lost
        return newly


class Engine:
    """Evaluates rules on a growing history.

    An episode of a problem begins when its rule first reports it and ends when the rule no longer does; the finding
    then becomes an info that says so. A rule that raises, or returns anything but a valid finding, is reported once and
    switched off.

    Args:
        rules: The active rules.
        on_finding: Called with each finding whose episode begins or whose severity rises.
        locate: Returns file and line in the user's code of what a rule points to (see `Rule.place`), given the name of
            the layer or None; empty if unknown.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        on_finding: Callable[[Finding], None] | None = None,
        locate: Callable[[Place, str | None], str] | None = None,
    ) -> None:
        self._rules = list(rules)
        self._locate = locate
        self._on_finding = on_finding
        self._context: tuple[TaskContext, TaskContext] | None = None
        self._current: dict[str, Finding] = {}
        self._resolved: dict[str, Finding] = {}
        self._reasons: set[tuple[str, str]] = set()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The active rules: those that have not failed."""
        return tuple(self._rules)

    @property
    def findings(self) -> list[Finding]:
        """Findings as of the last evaluation, ranked; resolved ones last, as infos."""
        resolved = [f for problem, f in self._resolved.items() if problem not in self._current]
        return rank_findings([*self._current.values(), *resolved])

    @property
    def episodes(self) -> tuple[list[Finding], list[Finding]]:
        """The findings of present episodes, and those of the latest episodes that have ended."""
        return list(self._current.values()), list(self._resolved.values())

    def restore(self, current: Iterable[Finding], resolved: Iterable[Finding]) -> None:
        """Continue the `episodes` of an earlier part of the run, as far as their rules are active."""
        active = {rule.problem for rule in self._rules}
        self._current = {each.problem: each for each in current if each.problem in active}
        self._resolved = {each.problem: each for each in resolved if each.problem in active}

    def evaluate(self, history: RunHistory, context: TaskContext) -> list[Finding]:
        """Evaluate all rules on the current history.

        Args:
            history: The history.
            context: The training's model, loss, optimizer and data.

        Returns:
            The findings, as in `findings`.
        """
        context = self._identified(history, context)
        reported: dict[str, Finding] = {}
        failed: dict[tuple[str, str], list[str]] = {}
        for rule in list(self._rules):
            try:
                with np.errstate(all="ignore"):  # histories of broken trainings overflow
                    finding = rule.check(history, context)
                if finding is not None:
                    layers = {info.name for info in (*history.layers, *context.layers)}
                    reported[rule.problem] = plugins.valid_finding(finding, rule, layers)
            except BaseException as error:
                if not plugins.is_contained(error, type(rule)):
                    raise
                self._rules.remove(rule)
                reason = plugins.describe_error(error)
                failed.setdefault((plugins.origin(type(rule)), reason), []).append(rule.problem)
        for (origin, reason), problems in failed.items():
            self._report_failures(origin, problems, reason)
        self._close_episodes(reported, history)
        raised = []
        for rule in self._rules:
            if rule.problem not in reported:
                continue
            finding = replace(reported[rule.problem], caused_by=self._cause(rule, reported))
            previous = self._current.get(rule.problem)
            first = previous or replace(
                finding, step=max(history.step, 0), epoch=history.epoch_of_step, place=self._place(rule, finding)
            )
            finding = replace(finding, step=first.step, epoch=first.epoch, place=first.place)
            self._current[rule.problem] = finding
            if previous is None or finding.severity.rank < previous.severity.rank:
                raised.append(finding)
        if self._on_finding is not None:
            for finding in rank_findings(raised):
                self._on_finding(finding)
        return self.findings

    def _report_failures(self, origin: str, problems: list[str], reason: str) -> None:
        """Log the rules of one distribution that fail for one reason: as a warning for the first time."""
        level = logging.INFO if (origin, reason) in self._reasons else logging.WARNING
        self._reasons.add((origin, reason))
        if len(problems) == 1:
            logger.log(level, "%srule %s failed and is switched off: %s", origin, problems[0], reason)
            return
        rest = f" and {len(problems) - _MAX_NAMED} more" if len(problems) > _MAX_NAMED else ""
        names = ", ".join(problems[:_MAX_NAMED]) + rest
        logger.log(level, "%s%d rules failed and are switched off (%s): %s", origin, len(problems), names, reason)

    def _identified(self, history: RunHistory, context: TaskContext) -> TaskContext:
        """Return the context with the loss identified, once it has been; the same object for the same context."""
        if self._context is None or self._context[0] is not context:
            try:
                identified = with_identified_loss(history, context)
            except BaseException as error:
                if not plugins.is_contained(error, Rule):
                    raise
                reason = plugins.describe_error(error)
                if ("", reason) not in self._reasons:
                    self._reasons.add(("", reason))
                    logger.warning("the custom loss can't be identified: %s", reason)
                return context
            if identified is context:
                return context
            self._context = (context, identified)
        return self._context[1]

    def _close_episodes(self, reported: dict[str, Finding], history: RunHistory) -> None:
        for problem in [p for p in self._current if p not in reported]:
            ended = self._current.pop(problem)
            if ended.severity is not Severity.INFO:
                message = f"{ended.message} Resolved by step {history.step}."
                self._resolved[problem] = replace(
                    ended, severity=Severity.INFO, message=message, caused_by=None, resolved_step=history.step
                )

    def _place(self, rule: Rule, finding: Finding) -> str:
        if self._locate is None or (rule.place == "layer" and not finding.layers):
            return ""
        of_layer = rule.place in ("layer", "output") and finding.layers
        return self._locate(rule.place, finding.layers[0] if of_layer else None)

    @staticmethod
    def _cause(rule: Rule, reported: dict[str, Finding]) -> str | None:
        """Return the first cause that is reported; a doubtful one only if there is no other."""
        causes = [reported[problem] for problem in rule.causes if problem in reported]
        possible = [c for c in causes if c.severity is not Severity.INFO and c.confidence >= _MIN_CAUSE_CONFIDENCE]
        certain = [c for c in possible if c.confidence > _DOUBTFUL]
        return next((c.problem for c in certain or possible), None)
