"""The engine: runs the rules over a history and turns their verdicts into findings with episodes and causes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from autotrainer.records.findings import Finding, Severity, rank_findings
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TaskContext
from autotrainer.rule import Place, Rule

__all__ = ["Engine"]

_LIKELY = 0.5
"""Confidence from which a problem is named as the root of another one."""

logger = logging.getLogger("autotrainer")


class Engine:
    """Judges a growing history again and again.

    An episode of a problem begins where a rule first reports it and ends where the rule reports it no more;
    the finding then becomes an info that says so. A rule that raises is reported once and left out from then on.

    Args:
        rules: The rules in force.
        on_finding: Called with each finding whose episode begins or whose severity rises.
        locate: Returns the place in the user's code of a layer's making, given its name, or of the call of the loss or
            the optimizer's step, given None and which; empty if it is not known.
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
        self._current: dict[str, Finding] = {}
        self._passed: dict[str, Finding] = {}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules that are still in force."""
        return tuple(self._rules)

    @property
    def findings(self) -> list[Finding]:
        """Findings as of the last evaluation, ranked; passed ones last, as infos."""
        passed = [f for problem, f in self._passed.items() if problem not in self._current]
        return rank_findings([*self._current.values(), *passed])

    def evaluate(self, history: RunHistory, context: TaskContext) -> list[Finding]:
        """Run all rules on the history as it is now.

        Args:
            history: The history.
            context: What is known of the training.

        Returns:
            The findings, as the property of that name.
        """
        verdicts: dict[str, Finding] = {}
        for rule in list(self._rules):
            try:
                with np.errstate(all="ignore"):  # histories of broken trainings overflow
                    verdict = rule.check(history, context)
            except Exception as error:  # noqa: BLE001 - a broken rule must never reach the user's training
                self._rules.remove(rule)
                logger.warning("rule %s failed and is switched off: %r", rule.problem, error)
                continue
            if verdict is not None:
                verdicts[rule.problem] = verdict
        self._close_episodes(verdicts, history)
        raised = []
        for rule in self._rules:
            verdict = verdicts.get(rule.problem)
            if verdict is None:
                continue
            verdict = replace(verdict, caused_by=self._root(rule, verdicts))
            before = self._current.get(rule.problem)
            began = before or replace(
                verdict, step=max(history.step, 0), epoch=history.epoch_of_step, place=self._place(rule, verdict)
            )
            verdict = replace(verdict, step=began.step, epoch=began.epoch, place=began.place)
            self._current[rule.problem] = verdict
            if before is None or verdict.severity.rank < before.severity.rank:
                raised.append(verdict)
        if self._on_finding is not None:
            for finding in rank_findings(raised):
                self._on_finding(finding)
        return self.findings

    def _close_episodes(self, verdicts: dict[str, Finding], history: RunHistory) -> None:
        for problem in [p for p in self._current if p not in verdicts]:
            ended = self._current.pop(problem)
            if ended.severity is not Severity.INFO:
                message = f"{ended.message} This passed by step {history.step}."
                self._passed[problem] = replace(ended, severity=Severity.INFO, message=message, caused_by=None)

    def _place(self, rule: Rule, verdict: Finding) -> str:
        if self._locate is None or (rule.place == "layer" and not verdict.layers):
            return ""
        return self._locate(rule.place, verdict.layers[0] if rule.place == "layer" else None)

    @staticmethod
    def _root(rule: Rule, verdicts: dict[str, Finding]) -> str | None:
        for cause in rule.causes:
            root = verdicts.get(cause)
            if root is not None and root.severity is not Severity.INFO and root.confidence >= _LIKELY:
                return cause
        return None
