"""Judges run logs again with other thresholds: no training is run for it."""

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

__all__ = ["STEPS", "Axis", "Levels", "axes", "levels", "levels_of_all"]

STEPS = (-4, -2, -1, 0, 1, 2, 4)
"""Values of a threshold: default × 2^k for these k; for shares, whose default lies between 0.01 and 1, the odds.
Negative ones are logarithms (base 10): their number × 2^k."""

Levels = dict[str, list[str | None]]
"""By ``problem.threshold``: the severity of the finding at the end for each value; None or ``info``: no finding."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One threshold and the values that it is tried with.

    Attributes:
        problem: Problem of its rule.
        threshold: Its name; empty where the rule has none: it is then judged as it is.
        default: Its default.
        values: Values in rising order, the default among them; those that the rule refuses are left out.
    """

    problem: str
    threshold: str
    default: float
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        """Its name as ``thresholds=`` takes it."""
        return f"{self.problem}.{self.threshold}" if self.threshold else self.problem


def axes() -> list[Axis]:
    """Return the thresholds of all rules, as ``autotrainer rules`` lists them.

    Those with default 0 ("how long before it is judged", switched off) are left out. Each rule has at least one axis.
    """
    # Through `benchmarks`, which finds the rules of a checkout that is not installed too.
    code = "import benchmarks, runpy; runpy.run_module('autotrainer', run_name='__main__')"
    path = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p)])
    ended = subprocess.run(
        [sys.executable, "-c", code, "rules", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    found = []
    for rule in json.loads(ended.stdout):
        problem = rule["problem"]
        given = {name: float(told["default"]) for name, told in rule["thresholds"].items() if told["default"]}
        for name, default in given.items():
            values = tuple(v for k in STEPS if _accepted(f"{problem}.{name}", v := _scaled(default, k)))
            found.append(Axis(problem, name, default, values))
        if not given:
            found.append(Axis(problem, "", 0.0, (0.0,)))
    return found


def levels(log: str | Path, wanted: Sequence[Axis]) -> Levels:
    """Replay one run log with the values of these thresholds, one threshold of a rule at a time.

    Rules are pure functions of the history, so one replay tries a value of each rule at once. Where the farthest value
    on one side is judged as the default is, so are those between, without a replay: a threshold only ever makes a rule
    stricter in one direction.

    Raises:
        LogError: If the log can't be read.
    """
    usual = _severities(log, sorted({axis.problem for axis in wanted}), {})
    found: Levels = {axis.name: [usual.get(axis.problem)] * len(axis.values) for axis in wanted}
    by_rule: dict[str, list[Axis]] = {}
    for axis in wanted:
        by_rule.setdefault(axis.problem, []).append(axis)
    for turn in range(max(map(len, by_rule.values()), default=0)):
        together = [of_rule[turn] for of_rule in by_rule.values() if turn < len(of_rule)]
        for side in (_below, _above):
            moved, position = together, 0
            while tried := [(axis, side(axis)[position]) for axis in moved if position < len(side(axis))]:
                values = {axis.name: axis.values[i] for axis, i in tried}
                seen = _severities(log, [axis.problem for axis, _ in tried], values)
                for axis, i in tried:
                    found[axis.name][i] = seen.get(axis.problem)
                if not position:
                    moved = [axis for axis, _ in tried if seen.get(axis.problem) != usual.get(axis.problem)]
                position += 1
    return found


def _below(axis: Axis) -> list[int]:
    """Return the places of the values below the default, the farthest first."""
    return list(range(axis.values.index(axis.default)))


def _above(axis: Axis) -> list[int]:
    """Return the places of the values above the default, the farthest first."""
    return list(range(axis.values.index(axis.default) + 1, len(axis.values)))[::-1]


def levels_of_all(logs: Sequence[str], wanted: Sequence[Axis], *, workers: int = 2) -> list[Levels | str]:
    """Return `levels` of each log, or in words why it can't be read; in several processes."""
    found: list[Levels | str] = []
    with ProcessPoolExecutor(max(1, workers), get_context("spawn")) as pool, progress(len(logs)) as shown:
        try:
            for log, result in zip(logs, pool.map(_told, logs, [tuple(wanted)] * len(logs)), strict=True):
                found.append(result)
                told = {"task": {"case": Path(log).name}}
                shown.done({**told, "error": result} if isinstance(result, str) else told)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for the logs that are left
            raise
    return found


def _told(log: str, wanted: Sequence[Axis]) -> Levels | str:
    try:
        with TemporaryDirectory() as folder:
            return levels(_judged_once(log, Path(folder)), wanted)
    except LogError as error:
        return str(error)


def _judged_once(log: str, folder: Path) -> Path:
    """Return a copy of a log in which only the last verdict is left: those before it have no part in it.

    Raises:
        LogError: If the log can't be read.
    """
    try:
        lines = Path(log).read_text(encoding="utf-8").splitlines(keepends=True)
        kinds = [json.loads(line).get("type") for line in lines]
    except (OSError, ValueError) as error:
        raise LogError(f"{log} can't be read: {error}") from None
    last = max((i for i, kind in enumerate(kinds) if kind == "check"), default=-1)
    copy = folder / Path(log).name
    kept = [line for i, line in enumerate(lines) if kinds[i] not in ("check", "finding") or i == last]
    copy.write_text("".join(kept), encoding="utf-8")
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


def _accepted(name: str, value: float) -> bool:
    """Say whether a rule takes a value: a wrong one is an error before the log is read."""
    try:
        autotrainer.replay(os.devnull, thresholds={name: value})
    except (ConfigError, LogError) as error:
        return isinstance(error, LogError)  # that the empty file is no log
    return True
