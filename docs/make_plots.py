"""The plots on docs/quality.md, drawn from the tables of that page: ``python docs/make_plots.py``."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE / "quality.md"
TARGET = HERE / "_static" / "quality"

COLORS = ("#2f7fb8", "#e08a2e", "#5a9e5a", "#a06bb0", "#808080", "#c0504d")
GRAY = "#808080"

Row = tuple[str, list[str]]


def table(title: str) -> tuple[list[str], list[Row]]:
    """Return the columns and rows of the first table of the page below a text."""
    text = PAGE.read_text("utf-8")
    lines = text[text.index(title) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    cells = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        cells.append([cell.strip() for cell in line.strip("|").split("|")])
    (_, *columns), _, *rows = cells
    return columns, [(name, values) for name, *values in rows]


def share(cell: str) -> tuple[int, int]:
    """Return hits and cases of a cell such as ``21/22``."""
    hits, cases = cell.split("/")
    return int(hits), int(cases)


def detection() -> Mapping[str, Sequence[tuple[str, int, int]]]:
    """Return name, hits and cases of each kind of program, by what was counted."""
    columns, rows = table("Seen and unseen programs")
    return {name: [(c, *share(cell)) for c, cell in zip(columns, cells, strict=True)] for name, cells in rows[:3]}


def repair() -> Mapping[str, Sequence[tuple[str, int, tuple[int, int] | None]]]:
    """Return method, share of the gap in percent and its interval, if the page has one, by budget."""
    columns, rows = table("Repair, in PyTorch")
    result = {}
    for budget, (_, *cells) in rows:
        bars = []
        for method, cell in zip(columns[1:], cells, strict=True):
            numbers = [int(n) for n in re.findall(r"\d+", cell)]
            interval = (numbers[1], numbers[2]) if len(numbers) == 3 else None
            bars.append((method.strip("`"), numbers[0], interval))
        result[budget.replace("`", "")] = bars
    return result


def draw(name: str, groups: Mapping[str, Sequence[tuple[str, float, tuple[float, float] | None]]], label: str) -> None:
    """Draw groups of bars, with the value on each, and intervals as lines."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style: dict[str, Any] = {"svg.hashsalt": name, "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "text.color"), GRAY)
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(8, 3.4), layout="constrained")
        bars = [bar for bar, _, _ in next(iter(groups.values()))]
        width = 0.8 / len(bars)
        for number, bar in enumerate(bars):
            places = [group + (number - (len(bars) - 1) / 2) * width for group in range(len(groups))]
            values = [group[number][1] for group in groups.values()]
            axes.bar(places, values, 0.9 * width, color=COLORS[number], label=bar)
            for place, group in zip(places, groups.values(), strict=True):
                _, value, interval = group[number]
                if interval is not None:
                    axes.vlines(place, *interval, color=GRAY, linewidth=1.5)
                top = value if interval is None else interval[1]
                axes.text(place, top + 2, f"{value:.0f} %", ha="center", fontsize=7)
        axes.set_xticks(range(len(groups)), [textwrap.fill(name, 28) for name in groups])
        axes.set(ylabel=label, ylim=(0, 112))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.22))
        TARGET.mkdir(parents=True, exist_ok=True)
        figure.savefig(TARGET / f"{name}.svg", format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)


def main() -> None:
    """Draw all plots."""
    found = {
        counted: [(name, 100 * hits / cases, None) for name, hits, cases in cells]
        for counted, cells in detection().items()
    }
    draw("detection", found, "share of faulty runs, %")
    draw("repair", repair(), "share of the gap closed, %")


if __name__ == "__main__":
    main()
