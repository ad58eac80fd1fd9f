"""What the page of a rule shows of its calibration, from the file that ``python -m benchmarks calibrate`` writes."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError
from autotrainer.rule import Rule

__all__ = ["section"]

_FILE = "calibration.json"
"""It lies beside the rules that it is of, so that another distribution can have its own."""

_BARS = {"error": "an error", "warning": "an error or a warning"}
_LEFT_OUT = {"data": "data sets", "kind": "kinds of network"}

_Told = Mapping[str, Any]


def section(rule: type[Rule]) -> str:
    """Return how a rule and its thresholds did on known trainings; empty where nobody has calibrated it.

    Raises:
        ConfigError: If its file is there and can't be read.
    """
    path = _beside(rule)
    if not path.is_file():
        return ""
    try:
        stored = json.loads(path.read_text("utf-8"))
        told = stored["rules"].get(rule.problem)
        return "" if told is None else "\n".join(["", "", "Calibration", *_lines(rule, told, stored["made"])])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is no calibration of rules: {error!r}; install autotrainer again") from error


def _beside(rule: type[Rule]) -> Path:
    return Path(inspect.getfile(rule)).with_name(_FILE)


def _lines(rule: type[Rule], told: _Told, made: _Told) -> Iterator[str]:
    cause, healthy, usual = told["cause"], made["healthy"], told["usual"]
    own = "no faulty training here has the cause that it names"
    if cause:
        own = f"in {_share(usual['hits'], cause)} of the faulty trainings whose cause it names"
    yield from _wrapped(
        f"Counted is {_BARS[told['bar']]} of this rule at the end. At the defaults: {own}, in "
        f"{_share(usual['alarms'], healthy)} of the healthy ones, in {usual['beside']} faulty ones of another cause, "
        "mostly as a consequence."
    )
    for name, lines in told["thresholds"].items():
        if name in rule.THRESHOLDS:
            yield ""
            yield from _threshold(f"{rule.problem}.{name}", rule.THRESHOLDS[name].default, lines, cause, healthy)
    if told["still"]:
        yield ""
        yield from _wrapped(f"No other value that was tried changes these counts: {', '.join(told['still'])}.")
    yield ""
    yield from _wrapped(
        f"Of {made['trainings']} trainings, {healthy} of them healthy by their scores, in {made['cases']} cases "
        f"({', '.join(made['sources'])}; {', '.join(made['frameworks'])}; seed {', '.join(map(str, made['seeds']))}), "
        f"commit {made['commit']}."
    )


def _threshold(name: str, default: float, told: _Told, cause: int, healthy: int) -> Iterator[str]:
    """Yield a threshold's table, the default marked, and what cross-validation chose."""
    rows = [(f"  {name}", "cause named", "precision", "on healthy")]
    for value, hits, alarms in zip(told["values"], told["hits"], told["alarms"], strict=True):
        found = hits + alarms
        precision = f"{hits / found:.2f}" if cause and found else "–"
        mark = "*" if value == default else " "
        rows.append((f"{mark} {value:g}", _share(hits, cause), precision, _share(alarms, healthy)))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if told["default"] != default:
        yield from _wrapped(f"(The default was {told['default']:g} then, and is {default:g} now.)")
    for by, chose in told["chose"].items():
        if chose["groups"] > 1 and chose["f1"] is not None:
            least, most = (f"{value:g}" for value in chose["values"])
            yield from _wrapped(
                f"Best F1 with each of {chose['groups']} {_LEFT_OUT[by]} left out in turn: "
                f"at {least if least == most else f'{least} – {most}'}; on those left out {chose['f1']:.2f}, "
                f"with the default {chose['default']:.2f}."
            )


def _share(part: int, whole: int) -> str:
    return f"{part}/{whole} ({100 * part / whole:.0f} %)" if whole else "–"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, width=110, initial_indent="    ", subsequent_indent="    ")
