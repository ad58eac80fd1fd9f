"""Calibration curves: one JSON and one SVG file for each rule."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.calibration.replay import Axis
from benchmarks.calibration.scoring import BARS, Counts, LabelledRun, counts, cross_validate, has_effect
from benchmarks.reporting.plots import require

__all__ = ["curves", "save_curves"]

_LINES = (("recall", "#0072B2", "o-"), ("precision", "#009E73", "s-"), ("false alarms", "#D55E00", "^-"))


def curves(labelled: Sequence[LabelledRun], axes: Sequence[Axis]) -> dict[str, Any]:
    """Return the curves of each rule as plain values.

    Args:
        labelled: The labelled trainings.
        axes: The thresholds.

    Returns:
        By problem: ``trainings``, and by threshold ``default``, ``values``, for each name of `BARS` the counts
        ``hits``, ``misses``, ``alarms``, ``healthy``, ``beside`` of each value, and ``chosen``: the values that
        cross-validation chose by ``data`` and by ``kind``.
    """
    rules: dict[str, Any] = {}
    for axis in axes:
        if not has_effect(labelled, axis):
            continue
        lines: dict[str, Any] = {"default": axis.default, "values": list(axis.values)}
        for bar in BARS:
            totals = counts(labelled, axis, bar)
            lines[bar] = {name: [getattr(total, name) for total in totals] for name in Counts.__slots__}
        lines["chosen"] = {by: list(cross_validate(labelled, axis, by).chosen) for by in ("data", "kind")}
        rule = rules.setdefault(axis.problem, {"trainings": len(labelled), "thresholds": {}})
        rule["thresholds"][axis.threshold] = lines
    return rules


def save_curves(labelled: Sequence[LabelledRun], axes: Sequence[Axis], folder: Path, *, plots: bool = True) -> str:
    """Write ``PROBLEM.json`` and, with plots, ``PROBLEM.svg`` for each rule that has a threshold with an effect.

    Returns:
        A message with the number of files written.

    Raises:
        ConfigError: If the folder can't be written, or matplotlib is not installed.
    """
    rules = curves(labelled, axes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for problem, rule in rules.items():
            (folder / f"{problem}.json").write_text(json.dumps(rule) + "\n", encoding="utf-8")
            if plots:
                _plot(problem, rule, folder / f"{problem}.svg")
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from None
    return f"Curves of {len(rules)} rules: {folder.name}/PROBLEM.json" + (" and .svg" if plots else "")


def _plot(problem: str, rule: dict[str, Any], path: Path) -> None:
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    thresholds = rule["thresholds"]
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": problem, "font.size": 9}
    style |= {"axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        size = (3.2 * len(thresholds) + 0.6, 2.8)
        figure, grid = pyplot.subplots(1, len(thresholds), figsize=size, squeeze=False, sharey=True)
        for axes, (name, lines) in zip(grid[0], thresholds.items(), strict=True):
            error = lines["error"]
            for (label, colour, marks), values in zip(_LINES, _shares(error), strict=True):
                axes.plot(lines["values"], values, marks, color=colour, label=label, markersize=3, linewidth=1)
            axes.axvline(lines["default"], color="#999", linestyle=":", label="default")
            for value in sorted({v for chosen in lines["chosen"].values() for v in chosen}):
                axes.plot([value], [-0.06], "|", color="black", markersize=7, clip_on=False)
            axes.set(xscale="log", xlabel=f"{problem}.{name}", ylim=(-0.03, 1.03))
        first = next(iter(thresholds.values()))["error"]
        named, healthy = first["hits"][0] + first["misses"][0], first["healthy"][0]
        grid[0][0].set_ylabel(f"share of trainings ({named} to detect, {healthy} healthy)")
        figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
        figure.set_layout_engine("constrained")
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _shares(error: dict[str, list[int]]) -> list[list[float]]:
    """Return recall, precision and share of healthy trainings with an error, NaN where undefined."""
    rows = [Counts(*numbers) for numbers in zip(*(error[name] for name in Counts.__slots__), strict=True)]
    alarms = [c.alarms / c.healthy if c.healthy else math.nan for c in rows]
    return [[c.recall for c in rows], [c.precision for c in rows], alarms]
