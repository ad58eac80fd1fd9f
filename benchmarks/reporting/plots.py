"""Plots of the page, as inline SVG: text stays text, and nothing is loaded from outside."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.detect.verdicts import MONITORS, Verdict, case_count, with_reference_monitors
from benchmarks.repair.outcomes import ORIGINAL, Outcome
from benchmarks.repair.tables import by_case
from benchmarks.reporting.intervals import bootstrap_mean, wilson

__all__ = ["delays", "error_shares", "ratios_by_budget", "ratios_by_case", "require", "step_times", "wins"]

# Okabe and Ito's colours, distinguishable with colour blindness; markers differ too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#555555")
_MARKERS = ("o", "s", "^", "D", "v", "x")


def require() -> None:
    """Check that plots can be drawn.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError("plots need matplotlib: pip install 'autotrainer-monitor[bench]'")


@contextmanager
def _figure(width: float, height: float) -> Iterator[tuple[Any, Callable[[], str]]]:
    """Yield axes and a function that returns the finished SVG."""
    require()
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "benchmarks", "font.size": 9, "axes.grid": True}
    style |= {"grid.color": "#e3e3e3", "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
    with matplotlib.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")

        def svg() -> str:
            drawn = io.StringIO()
            figure.savefig(drawn, format="svg", metadata={"Date": None}, transparent=True)
            return _embeddable(drawn.getvalue())

        try:
            yield axes, svg
        finally:
            pyplot.close(figure)


def error_shares(verdicts: Sequence[Verdict]) -> str:
    """Plot, for each source and framework, the share of faulty trainings with an error, and of healthy ones."""
    groups = sorted({(v.framework, v.source) for v in verdicts})
    with _figure(7.5, 1.2 + 0.45 * len(groups)) as (axes, svg):
        for i, (monitor, offset) in enumerate(zip(MONITORS, (0.2, 0, -0.2), strict=True)):
            for faulty, filled in ((True, True), (False, False)):
                for y, group in enumerate(groups):
                    judged = with_reference_monitors([v for v in verdicts if (v.framework, v.source) == group])[monitor]
                    selected = [v for v in judged if v.faulty == faulty]
                    label = f"{monitor}: error on {'faulty' if faulty else 'healthy'}" if y == 0 else None
                    _share(axes, y + offset, sum(bool(v.errors) for v in selected), selected, i, filled, label)
        axes.set_yticks(range(len(groups)), [f"{framework}, {source}" for framework, source in groups])
        axes.set(xlim=(-0.02, 1.02), xlabel="share of trainings, with 95 % interval")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return svg()


def delays(verdicts: Sequence[Verdict]) -> str:
    """Plot the cumulative share of faulty trainings over the time of their first error."""
    with _figure(6, 3) as (axes, svg):
        for i, framework in enumerate(sorted({v.framework for v in verdicts})):
            timed = [v for v in verdicts if v.framework == framework and v.early is not None]
            when = sorted(v.delay for v in timed if v.delay is not None)
            if timed:
                parts = np.arange(1, len(when) + 1) / len(timed)
                x, y = [0, *when, 1], [0, *parts, parts[-1] if when else 0]
                axes.step(x, y, where="post", color=_COLOURS[i], label=f"{framework} ({len(timed)} trainings)")
        axes.axvline(0.2, color="#999", linestyle=":", label="20 % of the steps")
        axes.set(
            xlabel="first error, as a share of the planned steps", ylabel="share of faulty trainings", ylim=(0, 1.02)
        )
        axes.legend(fontsize=8, frameon=False)
        return svg()


def ratios_by_budget(results: Sequence[Outcome]) -> str:
    """Plot each method's mean clipped IR over the budget, with its interval over cases and seeds."""
    methods = list(dict.fromkeys(o.method for o in results))
    budgets = sorted({o.budget for o in results})
    with _figure(6, 3.2) as (axes, svg):
        for i, method in enumerate(methods):
            points = []
            for budget in budgets:
                selected = by_case(o for o in results if o.fix_affordable and (o.method, o.budget) == (method, budget))
                if selected:
                    points.append((budget * (1 + 0.02 * (i - len(methods) / 2)), *bootstrap_mean(selected)))
            if points:
                x, mean, low, high = np.array(points).T
                style: dict[str, Any] = {"color": _COLOURS[i % 6], "marker": _MARKERS[i % 6], "label": method}
                axes.errorbar(x, mean, (mean - low, high - mean), capsize=2, markersize=4, linewidth=1, **style)
        axes.set(xlabel="budget, in original trainings", ylabel="mean clipped IR", ylim=(-0.03, 1.03), xscale="log")
        axes.set_xticks(budgets, [f"{b:g}" for b in budgets])
        axes.minorticks_off()
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return svg()


def ratios_by_case(results: Sequence[Outcome]) -> str:
    """Plot, for the largest budget, each case's clipped IR by method, ``fit``'s worst cases at the top."""
    largest = max(o.budget for o in results)
    selected = [o for o in results if o.budget == largest]
    methods = [m for m in dict.fromkeys(o.method for o in selected) if m != ORIGINAL]
    ours = {case: float(np.mean(r)) for case, r in by_case(o for o in selected if o.method == "fit").items()}
    cases = sorted({o.case for o in selected}, key=lambda case: (-ours.get(case, 0.0), case))
    with _figure(7, 1 + 0.22 * len(cases)) as (axes, svg):
        for i, method in enumerate(methods):
            means = {case: np.mean(r) for case, r in by_case(o for o in selected if o.method == method).items()}
            y = [cases.index(case) + 0.12 * (i - len(methods) / 2) for case in means]
            style = {"color": _COLOURS[i % 6], "marker": _MARKERS[i % 6], "label": method}
            axes.scatter(list(means.values()), y, s=18, **style)
        axes.set_yticks(range(len(cases)), cases, fontsize=7)
        axes.set(xlim=(-0.03, 1.03), xlabel=f"clipped IR, budget {largest:g}")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
        return svg()


def wins(results: Sequence[Outcome]) -> str:
    """Plot, for the largest budget, the share of cases that each method has improved over the cost."""
    largest = max(o.budget for o in results)
    selected = [o for o in results if o.budget == largest]
    with _figure(6, 3) as (axes, svg):
        for i, method in enumerate(m for m in dict.fromkeys(o.method for o in selected) if m != ORIGINAL):
            mine = [o for o in selected if o.method == method]
            costs = sorted(o.cost_to_win for o in mine if o.cost_to_win is not None and o.ratio > 0)
            parts = [k / len(mine) for k in range(len(costs) + 1)]
            x, y = [1, *costs, largest], [*parts, parts[-1]]
            axes.step(x, y, where="post", color=_COLOURS[i % 6], label=method)
        axes.set(xlabel="cost to win, in original trainings", ylabel="share of cases with IR > 0", ylim=(0, 1.02))
        axes.legend(fontsize=8, frameon=False)
        return svg()


def step_times(ratios: Mapping[str, tuple[float, float, float]]) -> str:
    """Plot ratios of step times with their intervals.

    Args:
        ratios: Median, lower and upper end by name.
    """
    with _figure(6.5, 0.8 + 0.24 * len(ratios)) as (axes, svg):
        middle, low, high = np.array(list(ratios.values())).T
        y = np.arange(len(ratios))[::-1]
        axes.errorbar(
            middle, y, xerr=(middle - low, high - middle), fmt="o", color=_COLOURS[0], markersize=3, capsize=2
        )
        axes.axvline(1.01, color="#999", linestyle=":", label="1 %")
        axes.set_yticks(y, list(ratios), fontsize=7)
        axes.set(xlabel="step time with ÷ without the setting")
        axes.legend(fontsize=8, frameon=False)
        return svg()


def _embeddable(svg: str) -> str:
    """Return an SVG without its preamble, with ids that are unique on the page."""
    body = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.DOTALL)
    prefix = f"p{zlib.crc32(body.encode()):x}"
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", body)


def _share(
    axes: Any, y: float, part: int, selected: Sequence[Verdict], colour: int, filled: bool, label: str | None
) -> None:
    if not selected:
        return
    share, units = part / len(selected), case_count(selected)
    low, high = wilson(share * units, units)
    axes.errorbar(
        share,
        y,
        xerr=[[max(0.0, share - low)], [max(0.0, high - share)]],
        fmt=_MARKERS[colour],
        color=_COLOURS[colour],
        markerfacecolor=_COLOURS[colour] if filled else "white",
        markersize=4,
        capsize=2,
        linewidth=1,
        label=label,
    )
