"""``python -m benchmarks calibrate``: how precision and recall of each rule depend on its thresholds.

Each case is trained once, as given and fixed, with a run log; the rules are then judged on the logs again with other
thresholds (`autotrainer.replay`). One threshold is moved at a time, the others keep their defaults. Cross-validation
leaves out one data set, or one kind of network, after the other: the value with the best F1 on the others is tried on
the one left out. What the default loses against that choice, and how far it lies from it, is the report.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.calibration.curves import save_curves
from benchmarks.calibration.pages import save_page
from benchmarks.calibration.replay import Axis, axes, levels_of_all
from benchmarks.calibration.scoring import Counts, Judged, Validation, counts, cross_validate, has_effect, wins
from benchmarks.cases.case import Case
from benchmarks.detect.suite import tasks
from benchmarks.detect.verdicts import judge_all
from benchmarks.execution.files import require_writable
from benchmarks.execution.pool import Row, Task
from benchmarks.execution.provenance import made_with, told
from benchmarks.execution.runs import Runs, by_framework
from benchmarks.reporting.plots import require
from benchmarks.reporting.tables import share, table

__all__ = ["calibrate", "judged_logs", "report"]

_NOTHING: Row = {"findings": [], "raised": [], "first_error": None, "complaints": []}
"""What the judgement by score does not look at."""


def calibrate(
    runs: Runs, overhead: float = 1.0, folder: Path | None = None, *, plots: bool = True, page: Path | None = None
) -> str:
    """Run the benchmark.

    Args:
        runs: What to train. Run logs lie beside ``runs.out``, in a folder of its name with ``-logs``; without
            ``runs.out`` they are thrown away.
        overhead: Share that `watch` may cost; 1 makes what is measured independent of the speed of the machine.
        folder: Where curves are saved, one JSON and one SVG file for each rule; None: beside ``runs.out``, in a folder
            of its name with ``-curves``, or nowhere.
        plots: Whether to draw the SVG files; needs matplotlib.
        page: The file for what the pages of the rules show (``autotrainer explain``), or None.

    Returns:
        The report, Markdown.

    Raises:
        ConfigError: If a case or source is unknown, a folder can't be written, or matplotlib is not installed.
    """
    beside = None if runs.out is None else runs.out.with_suffix("")
    curves = folder or (None if beside is None else Path(f"{beside}-curves"))
    if curves is not None and plots:
        require()  # not only after the trainings
    for place in (page, curves and curves / "PROBLEM.json"):
        if place is not None:
            require_writable(place)
    wanted = axes()
    with tempfile.TemporaryDirectory() as nowhere:
        logs = nowhere if beside is None else f"{beside}-logs"

        def of(cases: Sequence[Case], framework: str) -> list[Task]:
            return [{**task, "logs": logs} for task in tasks(cases, framework, runs.seeds, overhead)]

        rows = runs.rows("benchmarks.calibration.run", of)
        judged, left_out = judged_logs(rows, wanted, workers=runs.workers)
    text = report(judged, wanted)
    if curves is not None:
        text += f"\n\n{save_curves(judged, wanted, curves, plots=plots)}"
    if page is not None:
        text += f"\n\n{save_page(judged, wanted, _made(runs, rows), page)}"
    if left_out:
        text += "\n\n" + "\n".join(["Left out:", "", *(f"* {words}" for words in left_out)])
    return f"{told(rows)}\n\n{text}"


def _made(runs: Runs, rows: Sequence[Row]) -> Row:
    return {
        "cases": len({(row["task"]["source"], row["task"]["case"]) for row in rows}),
        "sources": list(runs.names or runs.sources),
        "frameworks": list(runs.frameworks),
        "seeds": list(range(runs.seeds)),
        "commit": made_with(__name__)["commit"],
    }


def judged_logs(rows: Sequence[Row], wanted: Sequence[Axis], *, workers: int = 2) -> tuple[list[Judged], list[str]]:
    """Judge trainings by their scores, as `detect` does, and replay the logs of those that are faulty or healthy.

    Returns:
        The trainings, and in words what was left out and why.
    """
    known: list[tuple[str, Judged]] = []
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
        verdicts, words = judge_all(full, framework)
        left_out += [f"{framework}, {said}" for said in words]
        for verdict in verdicts:
            entry = entries[verdict.case, verdict.seed]
            groups = {by: str(entry[by]) for by in ("data", "kind")}
            known.append((entry["log"], Judged(verdict.faulty, verdict.accepted, groups, {})))
    judged = []
    found = levels_of_all([log for log, _ in known], wanted, workers=workers)
    for (_, one), result in zip(known, found, strict=True):
        if isinstance(result, str):
            left_out.append(result)
        else:
            judged.append(replace(one, levels=result))
    return judged, left_out


def report(judged: Sequence[Judged], wanted: Sequence[Axis]) -> str:
    """Return the tables as Markdown."""
    moving = [axis for axis in wanted if has_effect(judged, axis)]
    still = [axis.name for axis in wanted if axis.threshold and axis not in moving]
    healthy = sum(not one.faulty for one in judged)
    rules = {axis.problem: axis for axis in wanted}  # at the default any threshold of a rule gives the same counts
    head = ["rule", "cause named", "precision", "error on healthy", "error beside", "warning or error: cause named"]
    head += ["on healthy"]
    parts = [
        f"{len(judged)} trainings: {len(judged) - healthy} faulty, {healthy} healthy by their scores.",
        "#### Rules at their defaults",
        table(head, [_rule(judged, problem, axis) for problem, axis in rules.items()]),
    ]
    if moving:
        head = ["threshold", "default", "F1", "best", "F1", "data sets left out: chosen", "F1", "of default"]
        head += ["kinds left out: chosen", "F1", "of default"]
        parts += ["#### Thresholds (errors)", table(head, [_threshold(judged, axis) for axis in moving])]
    if still:
        parts.append(f"Without effect on any training: {', '.join(still)}.")
    return "\n\n".join(parts)


def _rule(judged: Sequence[Judged], problem: str, axis: Axis) -> list[str]:
    usual = axis.values.index(axis.default)
    error, warning = (counts(judged, axis, bar)[usual] for bar in ("error", "warning"))
    return [
        problem,
        share(error.hits, error.hits + error.misses),
        _number(error.precision),
        share(error.alarms, error.healthy),
        str(error.beside),
        share(warning.hits, warning.hits + warning.misses),
        share(warning.alarms, warning.healthy),
    ]


def _threshold(judged: Sequence[Judged], axis: Axis) -> list[str]:
    found: list[Counts] = counts(judged, axis)
    best, usual = wins(found, axis), axis.values.index(axis.default)
    cells: list[Any] = [axis.name, f"{axis.default:g}", _number(found[usual].f1)]
    cells += [_range([axis.values[best]]), _number(found[best].f1)]
    for by in ("data", "kind"):
        told: Validation = cross_validate(judged, axis, by)
        cells += [_range(told.chosen), _number(told.held.f1), _number(told.default.f1)]
    return cells


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g}" if low == high else f"{low:.3g} – {high:.3g}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"
