"""Evaluates the rules on run logs with other thresholds, without any training."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import autotrainer
from autotrainer.errors import ConfigError, LogError
from benchmarks.execution.progress import progress

__all__ = ["STEPS", "Axis", "Levels", "levels", "replay_all", "threshold_axes"]

STEPS = (-4, -2, -1, 0, 1, 2, 4)
"""Values of a threshold: default × 2^k for these k; for shares, whose default lies between 0.01 and 1, the odds.
Negative ones are logarithms (base 10): their number × 2^k."""

Levels = dict[str, list[str | None]]
"""By ``problem.threshold``: the severity of the finding at the end for each value; None or ``info``: no finding."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One threshold and the values to try.

    Attributes:
        problem: Problem of its rule.
        threshold: Its name; empty if the rule has no threshold.
        default: Its default.
        values: Values in rising order, including the default; values that the rule rejects are left out.
    """

    problem: str
    threshold: str
    default: float
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """Its name for ``thresholds=``."""
        return f"{self.problem}.{self.threshold}" if self.threshold else self.problem


def threshold_axes() -> list[Axis]:
    """Return the thresholds of all rules, as ``autotrainer rules`` lists them.

    Thresholds with default 0 (a waiting time that is switched off) are left out. Each rule has at least one axis.
    """
    # Through `benchmarks`, which finds the rules of a checkout even if it is not installed.
    code = "import benchmarks, runpy; runpy.run_module('autotrainer', run_name='__main__')"
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p)])
    completed = subprocess.run(  # nosec B603
        [sys.executable, "-c", code, "rules", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    axes = []
    for rule in json.loads(completed.stdout):
        problem = rule["problem"]
        defaults = {name: float(spec["default"]) for name, spec in rule["thresholds"].items() if spec["default"]}
        for name, default in defaults.items():
            values = tuple(v for k in STEPS if _is_valid(f"{problem}.{name}", v := _scaled(default, k)))
            axes.append(Axis(problem, name, default, values))
        if not defaults:
            axes.append(Axis(problem, "", 0.0, (0.0,)))
    return axes


def levels(log: str | Path, axes: Sequence[Axis]) -> Levels:
    """Replay one run log with all values of these thresholds, varying one threshold of a rule at a time.

    Rules are pure functions of the history, so one replay tries a value for every rule at once. If the farthest value
    on one side gives the same severity as the default, so do those between, without a replay: a rule is monotonic in
    each threshold.

    Raises:
        LogError: If the log can't be read.
    """
    baseline = _severities(log, sorted({axis.problem for axis in axes}), {})
    severities: Levels = {axis.name: [baseline.get(axis.problem)] * len(axis.values) for axis in axes}
    by_rule: dict[str, list[Axis]] = {}
    for axis in axes:
        by_rule.setdefault(axis.problem, []).append(axis)
    for turn in range(max(map(len, by_rule.values()), default=0)):
        axes_of_turn = [of_rule[turn] for of_rule in by_rule.values() if turn < len(of_rule)]
        for side in (_below, _above):
            remaining, position = axes_of_turn, 0
            while tried := [(axis, side(axis)[position]) for axis in remaining if position < len(side(axis))]:
                values = {axis.name: axis.values[i] for axis, i in tried}
                replayed = _severities(log, [axis.problem for axis, _ in tried], values)
                for axis, i in tried:
                    severities[axis.name][i] = replayed.get(axis.problem)
                if not position:
                    remaining = [axis for axis, _ in tried if replayed.get(axis.problem) != baseline.get(axis.problem)]
                position += 1
    return severities


def _below(axis: Axis) -> list[int]:
    """Return the indices of the values below the default, the farthest first."""
    return list(range(axis.values.index(axis.default)))


def _above(axis: Axis) -> list[int]:
    """Return the indices of the values above the default, the farthest first."""
    return list(range(axis.values.index(axis.default) + 1, len(axis.values)))[::-1]


def replay_all(logs: Sequence[str], axes: Sequence[Axis], *, workers: int = 2) -> list[Levels | str]:
    """Return `levels` of each log, or the reason why it can't be read; in several processes."""
    results: list[Levels | str] = []
    with ProcessPoolExecutor(max(1, workers), get_context("spawn")) as pool, progress(len(logs)) as shown:
        try:
            for log, result in zip(logs, pool.map(_levels_or_reason, logs, [tuple(axes)] * len(logs)), strict=True):
                results.append(result)
                row = {"task": {"case": Path(log).name}}
                shown.done({**row, "error": result} if isinstance(result, str) else row)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # do not wait for the remaining logs
            raise
    return results


def _levels_or_reason(log: str, axes: Sequence[Axis]) -> Levels | str:
    try:
        with TemporaryDirectory() as folder:
            return levels(_keep_last_check(log, Path(folder)), axes)
    except LogError as error:
        return str(error)


def _keep_last_check(log: str, folder: Path) -> Path:
    """Return a copy of a log with only its last verdict; earlier ones do not affect it.

    Raises:
        LogError: If the log can't be read.
    """
    try:
        lines = Path(log).read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise LogError(f"{log} can't be read: {error}") from None
    records[0]["autotrainer_log"] = 1  # a log without checksums, which would no longer be right
    last = max((i for i, record in enumerate(records) if record.get("type") == "check"), default=-1)
    kept = [record for i, record in enumerate(records) if record.get("type") not in ("check", "finding") or i == last]
    copy = folder / Path(log).name
    for record in kept:
        record.pop("crc", None)
    copy.write_text("".join(f"{json.dumps(record)}\n" for record in kept), encoding="utf-8")
    return copy


def _severities(log: str | Path, problems: Sequence[str], thresholds: Mapping[str, float]) -> dict[str, str]:
    report = autotrainer.replay(log, select=problems, thresholds=thresholds)
    return {finding.problem: str(finding.severity) for finding in report.findings}


def _scaled(default: float, k: int) -> float:
    if k == 0:
        return default
    if default < 0:
        return default + k * math.log10(2)
    if 0.01 <= default < 1:
        odds = default / (1 - default) * 2.0**k
        return odds / (1 + odds)
    return default * 2.0**k


def _is_valid(name: str, value: float) -> bool:
    """Return whether a rule accepts a value: an invalid one raises before the log is read."""
    try:
        autotrainer.replay(os.devnull, thresholds={name: value})
    except (ConfigError, LogError) as error:
        return isinstance(error, LogError)  # the empty file is not a log
    return True
