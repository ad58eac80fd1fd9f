"""Compares runs with a baseline: setup, findings, outcomes, and statistics of all layers over the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autotrainer.comparison.compared_run import ComparedRun
from autotrainer.comparison.curves import Curve, Scales, epoch_values, run_curves, window_of
from autotrainer.comparison.first_difference import FirstDifference, causal_rank, first_difference
from autotrainer.comparison.layer_matching import match_layers
from autotrainer.comparison.noise import difference_z, significant_cells, simes, usual_spread
from autotrainer.comparison.outcomes import finding_changes, outcome_changes
from autotrainer.comparison.setup import setup_differences
from autotrainer.records.findings import Severity
from autotrainer.records.signals import LAYER_COLUMNS, STEP_COLUMNS, Floats
from autotrainer.reporting.comparison import Comparison, Deviation
from autotrainer.reporting.text import count

__all__ = ["compare_runs"]

_BEYOND_CHANCE = 0.01
"""False discovery rate of single deviations; they are named only if the whole score is beyond chance at this level."""
_LASTING = 2.0
"""Standard deviations from which a deviation still lasts."""
_FEW_RUNS = 5
"""Runs in all up to which the usual spread between seeds weighs more than the measured one."""
_OUTPUTS = ("activation_", "dead_units", "saturated", "dormant")
_NORMS = ("weight_norm", "grad_norm")


def compare_runs(
    baseline: Sequence[ComparedRun],
    runs: Sequence[ComparedRun],
    *,
    metrics: Sequence[str] = (),
    fail_on: Severity = Severity.ERROR,
    among_baseline: bool = True,
) -> Comparison:
    """Compare runs with those of a baseline.

    Args:
        baseline: The runs of the baseline, at least one.
        runs: The other runs, at least one.
        metrics: Names of the metrics that decide; empty for all.
        fail_on: Lowest severity of a new finding that makes the runs worse.
        among_baseline: Whether to compare each run of the baseline with its others, to show what scores are usual.
    """
    everything = [*baseline, *runs]
    names = tuple(run.name for run in baseline), tuple(run.name for run in runs)
    origin, reference = _representative(baseline), _representative(runs)
    matches = [match_layers(reference.context.layers, run.context.layers) for run in everything]
    setup = setup_differences(origin, reference, match_layers(reference.context.layers, origin.context.layers))
    findings, outcomes = finding_changes(baseline, runs), outcome_changes(baseline, runs, metrics)
    measured = [i for i, run in enumerate(everything) if len(run.history.steps)]
    notes = list(_notes(everything, origin, reference, measured))
    if not any(i < len(baseline) for i in measured) or not any(i >= len(baseline) for i in measured):
        return Comparison(*names, outcomes=outcomes, findings=findings, setup=setup, notes=tuple(notes))
    aligned = _align([everything[i] for i in measured], [matches[i] for i in measured], reference)
    split = sum(i < len(baseline) for i in measured)
    z = difference_z(aligned.values[:split], aligned.values[split:], aligned.spread)
    notes += aligned.one_sided(split)
    score = _score(z)
    deviations: tuple[Deviation, ...] = ()
    if score >= -math.log10(_BEYOND_CHANCE):
        deviations = tuple(_deviations(aligned, z, split, reference))
    exact = _first_difference(baseline, runs)
    identical = exact is not None and exact.identical and not findings
    paired = exact is not None and exact.paired
    return Comparison(
        *names,
        identical=identical,
        same_start=paired,
        parted=exact.deviation if exact is not None and paired else next(iter(deviations), None),
        deviations=() if identical else deviations,
        score=0.0 if identical else score,
        baseline_scores=_scores_among(aligned, split) if among_baseline and split > 2 else (),
        outcomes=outcomes,
        findings=findings,
        setup=setup,
        notes=() if identical else tuple(notes),
        fail_on=fail_on,
    )


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Curves of all runs at the same places: values of shape (runs, curves, windows), and spread between seeds."""

    names: tuple[Curve, ...]
    values: Floats
    spread: Floats
    scales: Scales
    end: int

    def one_sided(self, split: int) -> list[str]:
        """Return notes about statistics that only one side has."""
        old, new = (
            {name for (_, name), one in zip(self.names, side, strict=True) if not np.isnan(one).all()}
            for side in (self.values[:split].swapaxes(0, 1), self.values[split:].swapaxes(0, 1))
        )
        notes = []
        if old - new:
            notes.append(
                f"not measured in the {'runs' if len(self.values) - split > 1 else 'run'}: {_names(old - new)}"
            )
        if new - old:
            notes.append(f"not measured in the baseline: {_names(new - old)}")
        return notes


def _names(statistics: set[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in sorted(statistics))


def _align(everything: Sequence[ComparedRun], matches: Sequence[Mapping[int, int]], reference: ComparedRun) -> _Aligned:
    """Bring the curves of runs to those of a reference, up to the last step that all have."""
    scales = Scales.of(run.history for run in everything)
    end = min(run.history.step for run in everything)
    each = [run_curves(run.history, scales, end) for run in everything]
    layers = reference.context.layers
    names: list[Curve] = [(i, column) for column in LAYER_COLUMNS for i in range(len(layers))]
    names += list(dict.fromkeys(curve for curves in each for curve in curves.names if curve[0] < 0))
    values = np.full((len(each), len(names), each[0].values.shape[1]), np.nan)
    noise = values.copy()
    for k, (run, curves) in enumerate(zip(everything, each, strict=True)):
        rows = {curve: row for row, curve in enumerate(curves.names)}
        for place, (layer, statistic) in enumerate(names):
            row = rows.get((layer if layer < 0 else matches[k].get(layer, len(run.context.layers)), statistic))
            if row is None or (layer >= 0 and not _comparable(reference, run, layer, matches[k][layer], statistic)):
                continue
            values[k, place], noise[k, place] = curves.values[row], curves.noise[row]
            if layer >= 0 and statistic in _NORMS:
                other = run.context.layers[matches[k][layer]]
                values[k, place] += _size_offset(layers[layer].parameters, other.parameters)
    shares = scales.shares - {*STEP_COLUMNS, *LAYER_COLUMNS}
    parameters = [layers[i].parameters if i >= 0 else 0 for i, _ in names]
    spread = np.array(
        [usual_spread(name, parameters=n, share=name in shares) for (_, name), n in zip(names, parameters, strict=True)]
    )
    of_curves = np.nan_to_num(np.fmax.reduce(noise, axis=0))
    return _Aligned(tuple(names), values, np.hypot(spread[:, None], of_curves), scales, end)


def _comparable(reference: ComparedRun, run: ComparedRun, layer: int, other: int, statistic: str) -> bool:
    """Return whether a statistic of two layers means the same: frameworks split layers and activations differently."""
    one, two = reference.context, run.context
    if one.framework == two.framework or not statistic.startswith(_OUTPUTS):
        return True
    return one.layers[layer].activation == two.layers[other].activation


def _size_offset(parameters: int, others: int) -> float:
    """Return what makes the logarithm of a norm comparable with that of a layer of another size."""
    return 0.5 * math.log(parameters / others) if parameters and others else 0.0


def _score(z: Floats) -> float:
    return max(0.0, -simes(z) / math.log(10))


def _scores_among(aligned: _Aligned, split: int) -> tuple[float, ...]:
    """Return the score of each run of the baseline against its others."""
    base = aligned.values[:split]
    others = (np.delete(base, k, axis=0) for k in range(split))
    return tuple(_score(difference_z(rest, base[k : k + 1], aligned.spread)) for k, rest in enumerate(others))


def _deviations(aligned: _Aligned, z: Floats, split: int, run: ComparedRun) -> list[Deviation]:
    """Return the curves with a significant difference, the earliest first, at one step the largest first."""
    significant = significant_cells(z, _BEYOND_CHANCE)
    base, other = (_mean(side) for side in (aligned.values[:split], aligned.values[split:]))
    deviations = []
    for row in np.flatnonzero(significant.any(axis=1)):
        layer, statistic = aligned.names[row]
        windows = np.flatnonzero(significant[row])
        peak = int(windows[np.abs(z[row, windows]).argmax()])
        largest = int(windows[np.abs(other[row, windows] - base[row, windows]).argmax()])
        last = int(np.flatnonzero(np.isfinite(z[row]))[-1])
        first = int(windows[0])
        deviations.append(
            Deviation(
                step=_first_step(run, aligned, int(row), first, base[row], other[row]),
                layer=run.context.layers[layer].name if layer >= 0 else "",
                statistic=statistic,
                value=aligned.scales.undo(statistic, float(other[row, largest])),
                baseline=aligned.scales.undo(statistic, float(base[row, largest])),
                sigmas=float(z[row, peak]),
                lasting=bool(abs(z[row, last]) >= _LASTING and z[row, last] * z[row, peak] > 0),
            )
        )
    return sorted(deviations, key=lambda d: (d.step, causal_rank(d.statistic), -abs(d.sigmas)))


def _mean(values: Floats) -> Floats:
    """Return the means over runs, without NaN."""
    amounts = (~np.isnan(values)).sum(axis=0)
    return np.where(amounts > 0, np.nan_to_num(values).sum(axis=0) / np.maximum(amounts, 1), np.nan)


def _first_step(run: ComparedRun, aligned: _Aligned, row: int, window: int, base: Floats, other: Floats) -> int:
    """Return the first sampled step in a window at which a curve is at least half-way to its value there.

    Steps just before the window count if they are as far from the baseline there.

    Args:
        run: The run.
        aligned: The curves of all runs.
        row: Place of the curve in them.
        window: The first window in which it differs.
        base: The baseline's values, shape (windows,).
        other: The run's values.
    """
    layer, statistic = aligned.names[row]
    history = run.history
    if layer >= 0:
        steps, values = history.steps, history.layer(statistic)[:, layer]
    elif statistic in STEP_COLUMNS:
        steps, values = history.steps, history.scalar(statistic)
    else:
        steps, values = epoch_values(history, statistic, aligned.end)
    measured = (steps <= aligned.end) & ~np.isnan(values)
    steps, on_scale = steps[measured], aligned.scales.apply(statistic, values)[measured]
    windows, gap = window_of(steps), float(other[window] - base[window])
    with np.errstate(invalid="ignore"):
        apart = (on_scale - base[np.minimum(windows, len(base) - 1)]) * math.copysign(1.0, gap) >= abs(gap) / 2
    inside = np.flatnonzero(windows == window)
    if not len(inside):
        return (1 << window) - 1
    first = int(next((i for i in inside if apart[i]), inside[0]))
    while first and apart[first] and apart[first - 1] and windows[first - 1] == window - 1:
        first -= 1
    return int(steps[first])


def _representative(runs: Sequence[ComparedRun]) -> ComparedRun:
    """Return the first run with a sampled step: one that has failed before may not even have layers."""
    return next((run for run in runs if len(run.history.steps)), runs[0])


def _first_difference(baseline: Sequence[ComparedRun], runs: Sequence[ComparedRun]) -> FirstDifference | None:
    """Return where the runs part from runs with the same start; None if that can't be seen.

    Several runs are equal to the baseline if each of them is to some run of it.
    """
    closest = []
    for run in runs:
        pairs = []
        for other in baseline:
            layers = match_layers(run.context.layers, other.context.layers)
            pair = first_difference(other, run, layers)
            if pair is not None:
                pairs.append(pair)
        if not pairs:
            return None
        closest.append(min(pairs, key=lambda pair: (not pair.identical, not pair.paired)))
    return min(closest, key=lambda pair: (pair.identical, not pair.paired))


def _notes(
    everything: Sequence[ComparedRun], origin: ComparedRun, reference: ComparedRun, measured: Sequence[int]
) -> Iterator[str]:
    for i, run in enumerate(everything):
        if i not in measured:
            yield f"{run.name} has no sampled step, so that only its findings and metrics are compared"
    total = len(reference.context.layers)
    matched = len(match_layers(reference.context.layers, origin.context.layers))
    if matched < total:
        yield f"{count(total - matched, 'layer')} of the run without a counterpart in the baseline"
    if reference.context.framework != origin.context.framework:
        yield "different frameworks: outputs are compared only for layers with the same activation"
    lengths = [everything[i].history.step + 1 for i in measured]
    if lengths and min(lengths) < max(lengths):
        yield f"statistics are compared over the first {min(lengths):,} steps, which all runs have"
    if len(everything) <= 2:
        yield (
            "with one run a side, the scatter between seeds can't be measured: that of other trainings and of the "
            "curves is used; several logs a side measure it"
        )
    elif len(everything) <= _FEW_RUNS:
        yield "with few runs, the usual scatter between seeds of other trainings weighs more than the measured one"
