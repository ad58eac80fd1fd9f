"""The calibration section of a rule's page, from the file that ``python -m benchmarks calibrate`` writes."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autotrainer import plugins
from autotrainer.errors import ConfigError
from autotrainer.rule import Rule

__all__ = ["section"]

_FILE = "calibration.json"
"""Stands next to the rules that it describes, so that other distributions can have one too."""

_COUNTED = {"error": "an error", "warning": "an error or a warning"}
_LEFT_OUT = {"data": "data sets", "kind": "kinds of network"}

_Record = Mapping[str, Any]


def section(rule: type[Rule]) -> str:
    """Return how a rule and its thresholds performed on labelled trainings; empty if the rule is not calibrated.

    Raises:
        ConfigError: If there is a calibration file that can't be read.
    """
    try:
        path = _calibration_file(rule)
        if not path.is_file():
            return ""
    except (OSError, TypeError):  # a plugin that has no file
        return ""
    try:
        stored = json.loads(path.read_text("utf-8"))
        record = stored["rules"].get(rule.problem)
        return "" if record is None else "\n".join(["", "", "Calibration", *_lines(rule, record, stored["made"])])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        if plugins.origin(rule):
            plugins.report_failure(rule, error, "has no readable calibration")
            return ""
        raise ConfigError(f"{path} is not a calibration of rules ({error!r}): install autotrainer again") from error


def _calibration_file(rule: type[Rule]) -> Path:
    return Path(inspect.getfile(rule)).with_name(_FILE)


def _lines(rule: type[Rule], record: _Record, made: _Record) -> Iterator[str]:
    cause, healthy, usual = record["cause"], made["healthy"], record["usual"]
    hits = "no faulty run had this cause"
    if cause:
        hits = f"found in {_share(usual['hits'], cause)} of the faulty runs with this cause"
    yield from _wrapped(
        f"A run counts if this rule reports {_COUNTED[record['bar']]} at its end. With the defaults: {hits}, in "
        f"{_share(usual['alarms'], healthy)} of the healthy ones, and in {usual['beside']} of the faulty runs with "
        "another cause, mostly as a consequence."
    )
    for name, counts in record["thresholds"].items():
        if name in rule.THRESHOLDS:
            yield ""
            yield from _threshold(f"{rule.problem}.{name}", rule.THRESHOLDS[name].default, counts, cause, healthy)
    if record["still"]:
        yield ""
        yield from _wrapped(
            f"Other values of these thresholds did not change the counts: {', '.join(record['still'])}."
        )
    yield ""
    yield from _wrapped(
        f"Based on {made['trainings']} runs, {healthy} of them healthy by their scores, in {made['cases']} cases "
        f"({', '.join(made['sources'])}; {', '.join(made['frameworks'])}; seed {', '.join(map(str, made['seeds']))}), "
        f"commit {made['commit']}."
    )


def _threshold(name: str, default: float, record: _Record, cause: int, healthy: int) -> Iterator[str]:
    """Yield a threshold's table with the default marked, and the values that cross-validation chose."""
    rows = [(f"  {name}", "cause found", "precision", "false alarms")]
    for value, hits, alarms in zip(record["values"], record["hits"], record["alarms"], strict=True):
        total = hits + alarms
        precision = f"{hits / total:.2f}" if cause and total else "–"
        mark = "*" if value == default else " "
        rows.append((f"{mark} {value:g}", _share(hits, cause), precision, _share(alarms, healthy)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if record["default"] != default:
        yield from _wrapped(f"(The default was {record['default']:g} at that time, and is {default:g} now.)")
    for by, chosen in record["chose"].items():
        if chosen["groups"] > 1 and chosen["f1"] is not None:
            least, most = (f"{value:g}" for value in chosen["values"])
            yield from _wrapped(
                f"Cross-validation over {chosen['groups']} {_LEFT_OUT[by]} (best F1 on the others): "
                f"chosen {least if least == most else f'{least} – {most}'}; F1 on those left out {chosen['f1']:.2f}, "
                f"with the default {chosen['default']:.2f}."
            )


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.0f} %)" if whole else "–"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, width=110, initial_indent="    ", subsequent_indent="    ")
