"""Whether metrics and findings differ between two groups of runs by more than seeds do."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.curves import Scales, better_sign, epoch_values, nan_median
from autotrainer.comparison.noise import difference_z, log_p, usual_spread
from autotrainer.records.findings import Finding, Severity, rank_findings
from autotrainer.records.signals import STEP_COLUMNS, Floats
from autotrainer.reporting.comparison import FindingChange, OutcomeChange

__all__ = ["LEVEL", "finding_changes", "metric_names", "outcome_changes"]

LEVEL = 0.05
"""Probability with which a metric that is no worse is called worse, over all metrics of a comparison."""

_INTERNAL = ("evaluation_mode", "lr")
_AT_END, _MOST_EPOCHS, _RECENT = 0.1, 5, 1 / 3
"""The end of a curve is its last tenth, at most five epochs; its scatter is that of the last third."""
_DETECTABLE = 1e-4
"""Difference, absolute for shares and relative for others, up to which metrics are equal."""


def metric_names(runs: Iterable[ComparedRun]) -> tuple[str, ...]:
    """Return the metrics that all runs have: values of ``end_epoch`` and of Keras's history, without training loss."""
    each = [[n for n in run.history.epoch_names if n not in (*STEP_COLUMNS, *_INTERNAL)] for run in runs]
    return tuple(name for name in each[0] if all(name in names for names in each)) if each else ()


def outcome_changes(
    baseline: Sequence[ComparedRun], runs: Sequence[ComparedRun], metrics: Sequence[str] = ()
) -> tuple[OutcomeChange, ...]:
    """Compare the metrics of two groups of runs at their ends; while a run goes on, at the last common step.

    The test is a t test whose variance includes the usual one between seeds: with one run a side, it is all there is.
    Several metrics are tested together (Holm 1979).

    Args:
        baseline: Runs of the baseline.
        runs: The other runs.
        metrics: Names of the metrics; empty for all, or for the training loss if there is none.
    """
    everything = [*baseline, *runs]
    scales = Scales.of(run.history for run in everything)
    end = math.inf
    if not all(run.history.finished for run in everything):
        end = min(run.history.step for run in everything)
    rows = []
    for name in metrics or metric_names(everything) or ("loss",):
        levels, errors = zip(*(_level(run, name, end, scales) for run in everything), strict=True)
        if any(map(math.isnan, levels[: len(baseline)])) or any(map(math.isnan, levels[len(baseline) :])):
            continue
        values = np.array(levels)
        on_scale = scales.apply(name, values)
        spread = np.array(
            math.hypot(usual_spread(name, share=name in scales.shares), float(np.sqrt(np.mean(np.square(errors)))))
        )
        z = float(difference_z(on_scale[: len(baseline)], on_scale[len(baseline) :], spread))
        rows.append((name, values, z, better_sign(name)))
    sides = [math.exp(float(log_p(np.array(z)))) / (2 if sign else 1) for _, _, z, sign in rows]
    return tuple(
        _change(name, values, len(baseline), z * sign, p, share=name in scales.shares, directed=bool(sign))
        for (name, values, z, sign), p in zip(rows, _holm(sides), strict=True)
    )


def _change(
    name: str, values: Floats, split: int, gain: float, p: float, *, share: bool, directed: bool
) -> OutcomeChange:
    old, new = values[:split], values[split:]
    scale = 1.0 if share else max(float(np.abs(old).max()), 1e-30)
    with np.errstate(invalid="ignore"):
        equal = bool(np.abs(new.mean() - old.mean()) <= _DETECTABLE * scale) if np.isfinite(values).all() else False
    verdict = "same"
    if p < LEVEL and not equal:
        verdict = "different" if not directed else "better" if gain > 0 else "worse"
    return OutcomeChange(name, tuple(map(float, old)), tuple(map(float, new)), verdict, min(1.0, p))


def _level(run: ComparedRun, name: str, end: float, scales: Scales) -> tuple[float, float]:
    """Return a metric at a step, and its standard error from the scatter of the curve, on the scale of `Scales`."""
    history = run.history
    last = int(min(end, history.step))
    if name == "loss":
        steps, values = history.losses
        values = values[steps <= last]
        count = max(1, round(_AT_END * len(values)))
    else:
        _, values = epoch_values(history, name, last)
        count = max(1, min(_MOST_EPOCHS, round(_AT_END * len(values))))
    values = values[~np.isnan(values)]
    if not len(values):
        return math.nan, 0.0
    recent = scales.apply(name, values[-max(3, count, round(_RECENT * len(values))) :])
    scatter = float(nan_median(np.abs(np.diff(recent))[:, None])[0]) / 0.954 if len(recent) > 2 else 0.0
    return float(np.median(values[-count:])), 1.253 * scatter / math.sqrt(count)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm, Scand. J. Stat. 6, 1979)."""
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = adjusted[i] = min(1.0, max(largest, (len(p_values) - rank) * p_values[i]))
    return adjusted


def finding_changes(baseline: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> tuple[FindingChange, ...]:
    """Return the problems whose severity in most runs is not that in most runs of the baseline, without infos."""
    before, after = _by_problem(baseline), _by_problem(runs)
    changes = {}
    for problem in {**after, **before}:
        old, new = (_usual(group.get(problem, ()), len(of)) for group, of in ((before, baseline), (after, runs)))
        if old == new:
            continue
        level = new or old
        finding = next(f for f in (after if new else before)[problem] if f.severity is level)
        counts = [sum(f.severity.rank <= finding.severity.rank for f in g.get(problem, ())) for g in (after, before)]
        changes[problem] = FindingChange(finding, old, new, *counts)
    ranked = rank_findings(change.finding for change in changes.values())
    return tuple(changes[finding.problem] for finding in ranked)


def _by_problem(runs: Iterable[ComparedRun]) -> dict[str, list[Finding]]:
    problems: dict[str, list[Finding]] = {}
    for run in runs:
        for finding in run.findings:
            if finding.severity is not Severity.INFO:
                problems.setdefault(finding.problem, []).append(finding)
    return problems


def _usual(findings: Sequence[Finding], runs: int) -> Severity | None:
    """Return the severity that most runs have at least; None if most do not have the problem."""
    ordered = sorted((finding.severity for finding in findings), key=lambda severity: severity.rank)
    return ordered[runs // 2] if len(ordered) > runs // 2 else None
