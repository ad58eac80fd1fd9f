"""``python -m benchmarks calibrate``: how precision and recall of each rule depend on its thresholds.

Each case is trained once, original and fixed, with a run log; the rules are then evaluated on the logs with other
thresholds (`autotrainer.replay`). One threshold is varied at a time, the others keep their defaults. Cross-validation
leaves out each family of programs, or kind of network, in turn: the value with the best F1 on the others is tested on
the one left out. The report shows how far the default is from that choice, what it loses, and how much better a value
looks on the programs that it is chosen on than on those left out.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.calibration.curves import save_curves
from benchmarks.calibration.pages import save_page
from benchmarks.calibration.replay import Axis, replay_all, threshold_axes
from benchmarks.calibration.scoring import (
    Counts,
    LabelledRun,
    Validation,
    best_value,
    counts,
    cross_validate,
    has_effect,
)
from benchmarks.cases.case import Case
from benchmarks.cases.sources import RESERVED_SEEDS, is_reserved
from benchmarks.detect.suite import tasks
from benchmarks.detect.verdicts import judge_all
from benchmarks.execution.files import require_writable
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import made_with, provenance_line
from benchmarks.execution.runs import Runs, by_framework
from benchmarks.reporting.plots import require
from benchmarks.reporting.tables import share, table

__all__ = ["calibrate", "label_logs", "report"]

_NOTHING: Row = {"findings": [], "raised": [], "first_error": None, "complaints": []}
"""Fields that the judgement by score does not use."""


def calibrate(
    runs: Runs, overhead: float = 1.0, folder: Path | None = None, *, plots: bool = True, page: Path | None = None
) -> str:
    """Run the benchmark.

    Args:
        runs: What to train. Run logs are stored next to ``runs.out``, in a folder of its name with ``-logs``;
            without ``runs.out`` they are discarded.
        overhead: Share of the time that `watch` may cost; 1 makes results independent of the speed of the machine.
        folder: Folder for the curves, one JSON and one SVG file for each rule; None: next to ``runs.out``, in a
            folder of its name with ``-curves``, or nowhere without ``runs.out``.
        plots: Whether to draw the SVG files; needs matplotlib.
        page: The file for the pages of the rules (``autotrainer explain``), or None.

    Returns:
        The report, Markdown.

    Raises:
        ConfigError: If a case or source is unknown or reserved, a folder can't be written, or matplotlib is not
            installed.
    """
    reserved = [source for source in runs.sources if is_reserved(source)]
    if reserved:
        raise ConfigError(
            f"{reserved[0]!r} is reserved for figures on unseen programs: calibrate with other families or a seed "
            f"below {RESERVED_SEEDS}"
        )
    stem = None if runs.out is None else runs.out.with_suffix("")
    curves = folder or (None if stem is None else Path(f"{stem}-curves"))
    if curves is not None and plots:
        require()  # before the trainings
    for path in (page, curves and curves / "PROBLEM.json"):
        if path is not None:
            require_writable(path)
    axes = threshold_axes()
    with tempfile.TemporaryDirectory() as temporary:
        logs = temporary if stem is None else f"{stem}-logs"

        def make_tasks(cases: Sequence[Case], framework: str) -> list[Task]:
            return [{**task, "logs": logs} for task in tasks(cases, framework, runs.seeds, overhead)]

        rows = runs.rows("benchmarks.calibration.run", make_tasks)
        labelled, left_out = label_logs(rows, axes, workers=runs.workers)
    text = report(labelled, axes)
    if curves is not None:
        text += f"\n\n{save_curves(labelled, axes, curves, plots=plots)}"
    if page is not None:
        text += f"\n\n{save_page(labelled, axes, _provenance(runs, rows), page)}"
    if left_out:
        text += "\n\n" + "\n".join(["Left out:", "", *(f"* {reason}" for reason in left_out)])
    return f"{provenance_line(rows)}\n\n{text}"


def _provenance(runs: Runs, rows: Sequence[Row]) -> Row:
    return {
        "cases": len({(row["task"]["source"], row["task"]["case"]) for row in rows}),
        "sources": list(runs.names or runs.sources),
        "frameworks": list(runs.frameworks),
        "seeds": list(range(runs.seeds)),
        "commit": made_with(__name__)["commit"],
    }


def label_logs(rows: Sequence[Row], axes: Sequence[Axis], *, workers: int = 2) -> tuple[list[LabelledRun], list[str]]:
    """Judge trainings by their scores, as `detect` does, and replay the logs of those that are faulty or healthy.

    Returns:
        The labelled trainings, and descriptions of what was left out and why.
    """
    judged: list[tuple[str, LabelledRun]] = []
    left_out: list[str] = []
    for framework, of_framework in by_framework(rows).items():
        entries: dict[tuple[str, int], Row] = {}
        full = []
        for row in of_framework:
            variants = [name for name in ("given", "fixed") if name in row]
            full.append(dict(row) | {name: {**row[name], **_NOTHING} for name in variants})
            for name in variants:
                case = row["task"]["case"] + ("+fix" if name == "fixed" else "")
                entries[case, row["task"]["seed"]] = row[name]
        verdicts, reasons = judge_all(full, framework)
        left_out += [f"{framework}, {reason}" for reason in reasons]
        for verdict in verdicts:
            entry = entries[verdict.case, verdict.seed]
            groups = {by: str(entry[by]) for by in ("data", "kind")}
            judged.append((entry["log"], LabelledRun(verdict.faulty, verdict.accepted, groups, {})))
    labelled = []
    results = replay_all([log for log, _ in judged], axes, workers=workers)
    for (_, training), result in zip(judged, results, strict=True):
        if isinstance(result, str):
            left_out.append(result)
        else:
            labelled.append(replace(training, levels=result))
    return labelled, left_out


def report(labelled: Sequence[LabelledRun], axes: Sequence[Axis]) -> str:
    """Return the tables as Markdown."""
    moving = [axis for axis in axes if has_effect(labelled, axis)]
    still = [axis.name for axis in axes if axis.threshold and axis not in moving]
    healthy = sum(not training.faulty for training in labelled)
    rules = {axis.problem: axis for axis in axes}  # at the default, all thresholds of a rule give the same counts
    head = ["rule", "cause named", "precision", "error on healthy", "error beside", "warning or error: cause named"]
    head += ["on healthy"]
    parts = [
        f"{len(labelled)} trainings: {len(labelled) - healthy} faulty, {healthy} healthy by their scores.",
        "#### Rules at their defaults",
        table(head, [_rule(labelled, problem, axis) for problem, axis in rules.items()]),
    ]
    if moving:
        head = ["threshold", "default", "F1", "best", "F1", "programs left out: chosen", "F1", "of default"]
        head += ["seen − left out"]
        head += ["kinds left out: chosen", "F1", "of default"]
        parts += ["#### All thresholds together, programs left out", _together(labelled, moving)]
        parts += ["#### Thresholds (errors)", table(head, [_threshold(labelled, axis) for axis in moving])]
    if still:
        parts.append(f"No effect on any training: {', '.join(still)}.")
    return "\n\n".join(parts)


def _rule(labelled: Sequence[LabelledRun], problem: str, axis: Axis) -> list[str]:
    default_index = axis.values.index(axis.default)
    error, warning = (counts(labelled, axis, bar)[default_index] for bar in ("error", "warning"))
    return [
        problem,
        share(error.hits, error.hits + error.misses),
        _number(error.precision),
        share(error.alarms, error.healthy),
        str(error.beside),
        share(warning.hits, warning.hits + warning.misses),
        share(warning.alarms, warning.healthy),
    ]


def _together(labelled: Sequence[LabelledRun], axes: Sequence[Axis]) -> str:
    """Return recall, precision and F1 summed over thresholds: chosen on all programs, on the others, and the defaults.

    A threshold without a cause in these trainings has nothing to choose by and does not count.
    """
    validations = [v for axis in axes if not math.isnan((v := cross_validate(labelled, axis, "data")).default.f1)]
    if not validations:
        return "No threshold has a cause in these trainings."
    lines = []
    for name, part in (
        ("chosen on all, on all (seen)", "fitted"),
        ("chosen on the others, on those left out", "held_out"),
        ("default, on all", "default"),
    ):
        total = sum((getattr(v, part) for v in validations), Counts())
        cells = [share(total.hits, total.hits + total.misses), _number(total.precision)]
        lines.append([name, *cells, share(total.alarms, total.healthy), f"{total.f1:.3f}"])
    worst = max(validations, key=lambda v: v.optimism)
    apart = sum(v.optimism > 0.05 for v in validations)
    return (
        f"{table(['threshold', 'cause named', 'precision', 'error on healthy', 'F1'], lines)}\n\n"
        f"{len(validations)} thresholds; seen − left out is above 0.05 for {apart}, at most {worst.optimism:.2f}."
    )


def _threshold(labelled: Sequence[LabelledRun], axis: Axis) -> list[str]:
    totals: list[Counts] = counts(labelled, axis)
    best, default_index = best_value(totals, axis), axis.values.index(axis.default)
    cells: list[Any] = [axis.name, f"{axis.default:g}", _number(totals[default_index].f1)]
    cells += [_range([axis.values[best]]), _number(totals[best].f1)]
    for by in ("data", "kind"):
        validation: Validation = cross_validate(labelled, axis, by)
        cells += [_range(validation.chosen), _number(validation.held_out.f1), _number(validation.default.f1)]
        cells += [_number(validation.optimism)] if by == "data" else []
    return cells


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} – {high:.3g}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
