"""``python -m benchmarks page ROWS…``: tables and plots of stored rows as one self-contained page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.detect.verdicts import judge_all
from benchmarks.execution.files import write
from benchmarks.execution.pool import Row
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import by_framework
from benchmarks.repair.outcomes import outcomes
from benchmarks.reporting import plots
from benchmarks.reporting.step_ratios import step_ratios
from benchmarks.reporting.suites import tables_of

__all__ = ["blocks", "page"]

Plot = tuple[str, str]


def page(suites: Mapping[str, Sequence[Row]], out: Path) -> None:
    """Write the page.

    Args:
        suites: Rows by benchmark, as `read_suites` returns them.
        out: The file.

    Raises:
        ConfigError: If it can't be written, or matplotlib is not installed.
    """
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    parts = [
        {
            "suite": suite,
            "made": provenance_line(rows),
            # Plots are generated here and escaped by matplotlib; everything else is escaped by the template.
            "plots": [(caption, Markup(svg)) for caption, svg in _plots(suite, rows)],  # nosec B704
            "blocks": list(blocks(tables_of(suite, rows))),
        }
        for suite, rows in suites.items()
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True
    )
    text = environment.get_template("page.html.j2").render(parts=parts)
    write(out, text)


def blocks(markdown: str) -> Iterator[dict[str, Any]]:
    """Yield headings, tables, lists and paragraphs of the Markdown that the benchmarks write."""
    for part in markdown.replace("**", "").split("\n\n"):
        lines = [line for line in part.split("\n") if line]
        if not lines:
            continue
        if lines[0].startswith("#"):
            marks, _, text = lines[0].partition(" ")
            yield {"kind": "heading", "level": min(6, len(marks)), "text": text}
            lines = lines[1:]
        table = [line for line in lines if line.startswith("| ")]
        if len(table) > 1:
            cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table]
            yield {"kind": "table", "head": cells[0], "rows": cells[2:]}
        elif lines and all(line.startswith("* ") for line in lines):
            yield {"kind": "list", "lines": [line[2:] for line in lines]}
        elif lines:
            yield {"kind": "text", "text": " ".join(lines)}


def _plots(suite: str, rows: Sequence[Row]) -> Iterator[Plot]:
    if suite == "detect":
        verdicts = [v for name, of_framework in by_framework(rows).items() for v in judge_all(of_framework, name)[0]]
        if verdicts:
            yield (
                "Trainings with an error: faulty ones (filled) and healthy ones (hollow)",
                plots.error_shares(verdicts),
            )
            yield "Time of the first error", plots.delays(verdicts)
    elif suite == "repair":
        for framework, of_framework in by_framework(rows).items():
            results, _ = outcomes(of_framework, framework)
            if results:
                yield (
                    f"{framework}: clipped IR by budget, cases whose fix is affordable",
                    plots.ratios_by_budget(results),
                )
                yield f"{framework}: work until the winning attempt", plots.wins(results)
                yield f"{framework}: each case, mean over seeds", plots.ratios_by_case(results)
    else:
        ratios = step_ratios(rows)
        if ratios:
            yield "Step time, median over pairs of blocks with its 95 % interval", plots.step_times(ratios)
