"""The result of `fit` and `Loop`, and its attempts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from autotrainer import registry
from autotrainer.records.findings import Finding, Severity
from autotrainer.reporting.charts.downsampling import points
from autotrainer.reporting.charts.run_charts import RunCharts
from autotrainer.reporting.files import replace_files, write_file
from autotrainer.reporting.outcome import AttemptRow, Outcome
from autotrainer.reporting.patch import in_patch_order
from autotrainer.reporting.plan import RepairPlan
from autotrainer.reporting.report import Report

__all__ = ["Attempt", "Result"]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One training that was tried with a repair plan.

    Attributes:
        plan: The changes it was trained with.
        score: Its validation score, or None if it failed.
        error: Why it failed, or None.
        findings: The findings of its own monitor.
        cost: Its work, relative to one original training. For an attempt that continued a shorter one, only the work
            since then.
        epochs: Number of epochs of a short trial that only decides whether the plan deserves a full training; None
            for a full training.
        verdict: Set for a rerun with another seed, which checks whether a gain is due to chance: ``holds``,
            ``refuted``, or ``open`` while undecided. Empty for all other attempts. A rerun of the original training
            has a plan without repairs. ``original`` for the original training, which went on after it had been
            paused: also a plan without repairs.
    """

    plan: RepairPlan
    score: float | None
    error: str | None
    findings: tuple[Finding, ...]
    cost: float
    epochs: int | None = None
    verdict: Literal["", "open", "holds", "refuted", "original"] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {
            "plan": json.loads(self.plan.to_json()),
            "score": _plain(self.score),
            "error": self.error,
            "findings": [finding.to_summary() for finding in self.findings],
            "cost": _plain(self.cost),
            "epochs": self.epochs,
            "verdict": self.verdict,
        }


@dataclass(slots=True)
class Result:
    """The result of a managed training: the best model, its score against the baseline, and how it was reached.

    The *baseline* is the original training, without any repair.

    Attributes:
        status: ``healthy`` (no errors, and a score clearly better than a constant prediction and not clearly below
            simple models, as far as these are known; nothing tried, or nothing better with ``until="budget"``),
            ``repaired`` (better than the baseline by more than noise, no errors remain; with ``until="budget"`` the
            baseline may have had none either), ``improved`` (better by more than noise, errors remain) or
            ``unrepaired`` (the baseline is returned; also if the budget or an interrupt ended it before half of its
            epochs, too early to call it healthy).
        stopped_by: ``done``, ``budget`` or ``interrupt``.
        model: The trained model, in evaluation mode; never worse on the validation data than the baseline.
        optimizer: The optimizer that trained it.
        history: Values by name (``loss``, ``val_loss``, ``score``, …), one per epoch of its training.
        score: Its validation score, in the metric's own sign; NaN if the budget allowed no evaluation.
        baseline_score: Validation score of the baseline; NaN if it can't be run or was never evaluated.
        test_score: Its score on the test data; None without test data.
        baseline_test_score: Test score of the baseline; None without test data, or if the baseline can't be run.
        findings: Findings of the baseline, ranked.
        plan: The changes that the returned training needs, or None.
        attempts: All attempts, in the order in which they were tried.
        cost: Total work, relative to one original training.
        metric: Name of the metric.
        mode: ``max`` or ``min``: whether higher or lower scores are better.
        notes: Reasons why repairs were not used, by the name of the repair.
        epochs: Planned epochs.
        baseline_epochs: Complete epochs of the baseline.
        baseline_steps: Training steps of the baseline.
        baseline_ended: Why the baseline ended early: ``stuck`` (an error showed that it learns nothing more),
            ``beaten`` (the cause of its error is known, and it would not have been better than the repaired training at
            its end), or ``paused`` (`fit` was interrupted before that was known); empty if it did not. `baseline_score`
            is then that of where it ended.
        doubtful: Whether the gain exceeds the noise, but is not significant at the 99.9% level (a higher one after
            more than 50 attempts) and was not confirmed with another seed (no budget left, or interrupted): it may be
            due to chance, as one attempt among several. False does not say how large the gain is with other seeds: the
            noise is that of the validation rows, and a rerun keeps the model's initial weights. The report says with
            how many seeds the gain was measured.
        judged_on: ``validation``: all scores but those on test data are on validation data. ``training``: they are on
            the training rows, none of which can be spared for validation: they show that the model can fit these rows,
            not that it generalizes.
        baseline_charts: What can be drawn of the baseline; None if it is unknown.
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
    judged_on: Literal["validation", "training"] = "validation"
    baseline_epochs: int = 0
    baseline_steps: int = 0
    baseline_ended: Literal["", "stuck", "beaten", "paused"] = ""
    baseline_charts: RunCharts | None = field(default=None, repr=False)

    def report(self) -> Report:
        """Return the report: outcome, findings, repair plan, attempts and curves."""
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
            baseline_epochs=self.baseline_epochs,
            baseline_steps=self.baseline_steps,
            baseline_ended=self.baseline_ended,
            epochs=self.epochs,
            mode=self.mode,
            rerun_scores=() if chosen is None else self._rerun_scores(chosen),
            baseline_rerun_scores=self._rerun_scores(None),
            judged_on=self.judged_on,
            patch_steps=() if chosen is None else chosen.steps,
            places={} if chosen is None else dict(chosen.places),
        )
        values = {name: list(v) for name, v in self.history.items()}
        if values.get("score") in [v for name, v in values.items() if name != "score"]:
            del values["score"]  # it goes by its own name, too
        curves = {name: points(range(len(v)), v) for name, v in values.items()}
        facts = {"epochs": max((len(v) for v in self.history.values()), default=0)}
        return Report(tuple(self.findings), facts, curves, outcome, charts=self.baseline_charts)

    def _repr_html_(self) -> str:
        """Return the result as a notebook shows it."""
        return self.report()._repr_html_()

    def _rerun_scores(self, plan: RepairPlan | None) -> tuple[float, ...]:
        """Return the scores of a plan's reruns with other seeds; None for those of the baseline."""
        reruns = [a for a in self.attempts if a.verdict not in ("", "original")]
        chosen = [a for a in reruns if (_is_same(a.plan, plan) if plan is not None else not a.plan.repairs)]
        return tuple(a.score for a in chosen if a.score is not None)

    def save(self, folder: str | Path) -> Path:
        """Write model, plan, attempts and report to a folder.

        Beside the model, these are ``plan.json`` (if there is a plan), ``attempts.json``, ``report.json`` and
        ``report.html``. The model is written in its framework's own format:

        * Keras: ``model.keras``, for `keras.models.load_model`. If a repair has inserted layers, import
          ``autotrainer.backends.keras3.layers`` first.
        * PyTorch: ``weights.pt``, the ``state_dict``, for
          ``model.load_state_dict(torch.load("weights.pt", weights_only=True))``; and ``model.pt``, for
          ``torch.load("model.pt", weights_only=False)["model"]``: the whole model, if it can be pickled. Loading it
          runs code of the file, and needs the modules of its classes.

        Files of an earlier result are replaced only once all new ones are complete. If one can't be written, all stay
        as they are; until then, the disk has to hold both.

        Args:
            folder: The folder; created if missing.

        Returns:
            The folder.

        Raises:
            InputError: If the model can't be saved, or a file can't be written or is read-only.
        """
        report = self.report()
        attempts = [attempt.to_dict() for attempt in self.attempts]
        contents = {
            "attempts.json": json.dumps(attempts, indent=2, allow_nan=False),
            "report.json": report.to_json() + "\n",
            "report.html": report.to_html() + "\n",
        }
        if self.plan is not None:
            contents["plan.json"] = self.plan.to_json()
        with replace_files(folder, obsolete=["plan.json"]) as new:  # an earlier plan would not belong to this model
            registry.backend_of(self.model).save_model(self.model, new)
            for name, content in contents.items():
                write_file(new / name, content)
        return Path(folder)


def _row(attempt: Attempt, chosen: RepairPlan | None) -> AttemptRow:
    """Return an attempt as a row of the report, marked if it is the full training with the chosen plan."""
    is_full = attempt.score is not None and attempt.epochs is None and not attempt.verdict
    return AttemptRow(
        repairs=attempt.plan.repairs,
        score=attempt.score,
        cost=attempt.cost,
        error=attempt.error,
        remaining=tuple(f.problem for f in attempt.findings if f.severity is Severity.ERROR),
        chosen=is_full and chosen is not None and _is_same(attempt.plan, chosen),
        epochs=attempt.epochs,
        start=attempt.plan.start,
        verdict=attempt.verdict,
        plan=tuple(str(edit) for edit in in_patch_order(attempt.plan.edits)),
    )


def _is_same(plan: RepairPlan, other: RepairPlan) -> bool:
    return (plan.edits, plan.start) == (other.edits, other.start)


def _plain(value: float | None) -> float | str | None:
    return value if value is None or abs(value) < float("inf") else str(value)
