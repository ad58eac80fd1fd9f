"""What `fit` returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autotrainer import registry
from autotrainer.errors import InputError
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.files import write_atomic
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report, points

__all__ = ["Attempt", "Result"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One repaired training that was tried.

    Attributes:
        plan: What it changed.
        score: Its validation score, or None if it failed.
        error: Why it failed, or None.
        findings: What its own monitor found.
        cost: Its work, in trainings of the given model; of one that went on where a shorter one ended, since then.
        epochs: Epochs that it was trained for, where that was only to see whether it is worth more; None: to its end.
        verdict: Of an attempt, or the training as given (no repairs), that is run again with another seed, to tell a
            gain from luck: ``holds``, ``refuted``, or ``open`` while nothing is concluded; else empty.
    """

    plan: RepairPlan
    score: float | None
    error: str | None
    findings: tuple[Finding, ...]
    cost: float
    epochs: int | None = None
    verdict: Literal["", "open", "holds", "refuted"] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold."""
        return {
            "plan": json.loads(self.plan.to_json()),
            "score": _plain(self.score),
            "error": self.error,
            "findings": [finding.to_dict() for finding in self.findings],
            "cost": _plain(self.cost),
            "epochs": self.epochs,
            "verdict": self.verdict,
        }


@dataclass(slots=True)
class Result:
    """What a managed training came to.

    Attributes:
        status: ``healthy`` (no error, nothing tried), ``repaired`` (better by more than noise and no error left),
            ``improved`` (better, errors remain) or ``unrepaired`` (the training as given is returned; also where
            budget or interrupt ended it before half of its epochs, too early to call it healthy).
        stopped_by: ``done``, ``budget`` or ``interrupt``.
        model: The trained model, in evaluation mode; never worse on validation data than the training as given.
        optimizer: The optimizer that trained it.
        history: Values by name (``loss``, ``val_loss``, ``score``, ...), one for each epoch of its training.
        score: Its validation score, in the metric's own sign; NaN if the budget allowed no evaluation.
        baseline_score: That of the training as given; NaN if it can't be run as given, or came to no evaluation.
        test_score: Its score on the test data, or None without test data.
        baseline_test_score: That of the training as given; None too if it can't be run as given.
        findings: Of the training as given, ranked.
        plan: What the returned training changes, or None.
        attempts: All repaired trainings that were tried, in order.
        cost: Total work, in trainings of the given model.
        metric: Name of the metric.
        mode: ``max`` or ``min``: whether higher or lower is better.
        notes: Why repairs were left out, by the name of the repair.
        epochs: Planned epochs.
        doubtful: Whether its gain is more than noise, but not sure at 99.9 %, and was not looked at with another seed,
            for want of budget or by an interrupt: it may be the luck of one attempt among several.
    """

    status: Literal["healthy", "repaired", "improved", "unrepaired"]
    stopped_by: Literal["done", "budget", "interrupt"]
    model: Any
    optimizer: Any
    history: Mapping[str, Sequence[float]]
    score: float
    baseline_score: float
    test_score: float | None
    baseline_test_score: float | None
    findings: list[Finding]
    plan: RepairPlan | None
    attempts: list[Attempt] = field(default_factory=list)
    cost: float = 0.0
    metric: str = "score"
    mode: Literal["max", "min"] = "max"
    notes: Mapping[str, str] = field(default_factory=dict)
    epochs: int = 0
    doubtful: bool = False

    def report(self) -> Report:
        """Return everything known as a report."""
        chosen = self.plan
        outcome = Outcome(
            status=self.status,
            stopped_by=self.stopped_by,
            metric=self.metric,
            score=self.score,
            baseline_score=self.baseline_score,
            test_score=self.test_score,
            baseline_test_score=self.baseline_test_score,
            cost=self.cost,
            patch=None if chosen is None else str(chosen),
            changes=() if chosen is None else chosen.changes,
            attempts=tuple(_row(attempt, chosen) for attempt in self.attempts),
            left_out=dict(self.notes),
            doubtful=self.doubtful,
            epochs=self.epochs,
            mode=self.mode,
        )
        curves = {name: points(range(len(v)), v) for name, v in self.history.items() if name in ("loss", "val_loss")}
        facts = {"epochs": max((len(v) for v in self.history.values()), default=0)}
        return Report(tuple(self.findings), facts, curves, outcome)

    def save(self, folder: str | Path) -> Path:
        """Write model, plan, attempts and report to a folder.

        Files that are there are replaced, each only once the new one is complete. The model comes in its
        framework's own format (``model.pt``, ``model.keras``), the rest as ``plan.json`` (where there is a plan),
        ``attempts.json``, ``report.json`` and ``report.html``.

        Args:
            folder: Where to write; created if missing.

        Returns:
            The folder.

        Raises:
            InputError: If the model can't be saved or the folder not be written.
        """
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"can't write to {folder}: {error.strerror or error}; give another folder") from error
        registry.backend_of(self.model).save_model(self.model, folder)
        if self.plan is not None:
            write_atomic(folder / "plan.json", self.plan.to_json())
        else:
            (folder / "plan.json").unlink(missing_ok=True)  # of an earlier result: it would not belong to this model
        attempts = [attempt.to_dict() for attempt in self.attempts]
        write_atomic(folder / "attempts.json", json.dumps(attempts, indent=2, allow_nan=False))
        report = self.report()
        report.save(folder / "report.json")
        report.save(folder / "report.html")
        return folder


def _row(attempt: Attempt, chosen: RepairPlan | None) -> AttemptRow:
    """Return an attempt as a row of the report; it is marked if it was trained to its end with the chosen plan."""
    whole = attempt.score is not None and attempt.epochs is None and not attempt.verdict
    same = chosen is not None and (attempt.plan.edits, attempt.plan.start) == (chosen.edits, chosen.start)
    return AttemptRow(
        repairs=attempt.plan.repairs,
        score=attempt.score,
        cost=attempt.cost,
        error=attempt.error,
        remaining=tuple(f.problem for f in attempt.findings if f.severity is Severity.ERROR),
        chosen=whole and same,
        epochs=attempt.epochs,
        start=attempt.plan.start,
        verdict=attempt.verdict,
    )


def _plain(value: float | None) -> float | str | None:
    return value if value is None or abs(value) < float("inf") else str(value)
