"""``python -m benchmarks experience``: what repairs have done, as the table that `autotrainer.fit` orders them by.

The rows are those of ``repair``. One observation is a repair that `autotrainer.fit` tried alone: the share of the way
from the original score to that of the known fix, in [0, 1]. The table is tested on programs left out: the expected
effect of a repair comes from the other programs, and is compared with what it did in this one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autotrainer.errors import ConfigError
from autotrainer.search.experience import Experience, Outcome, declared_effects
from benchmarks.cases.sources import is_unseen
from benchmarks.execution.files import write
from benchmarks.execution.pool import Row, read_rows
from benchmarks.execution.provenance import provenance_line
from benchmarks.execution.runs import case_of
from benchmarks.reporting.intervals import bootstrap_mean
from benchmarks.reporting.tables import number, table

__all__ = ["Observation", "experience", "observations", "outcomes_of"]

WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""Numbers of programs that a declared effect may count for."""

_BEST = 0.9
"""Share of the reachable gain from which a repair counts as the right one."""


class Observation(NamedTuple):
    """What one repair did in one training.

    Attributes:
        program: The family of the program: all its trainings count once.
        training: The training: framework, case and seed.
        problem: The problem that it answered.
        variant: See `autotrainer.search.experience.variant`.
        gain: Share of the reachable gain, in [0, 1].
    """

    program: str
    training: str
    problem: str
    variant: str
    gain: float


def experience(paths: Sequence[Path], output: Path | None) -> str:
    """Make the table from rows of ``repair``, and test it on programs left out.

    Args:
        paths: Files with rows.
        output: File to write the table to, or None.

    Returns:
        How well it does, Markdown.

    Raises:
        ConfigError: If no row has a repair that was tried alone.
    """
    stored = [row for path in paths for row in read_rows(path) if "error" not in row]
    rows = [row for row in stored if not is_unseen(case_of(row["task"]).source, row["task"]["case"])]
    observed = observations(rows)
    if not observed:
        raise ConfigError(
            "no repair was tried alone in these rows, those of reserved programs left out: make them with "
            "`python -m benchmarks repair --out`"
        )
    weight, errors, ranks = _best_weight(observed, declared_effects())
    programs = len({o.program for o in observed})
    if output is not None:
        made = {"trainings": len({o.training for o in observed}), "programs": programs, "rows": provenance_line(rows)}
        write(output, Experience(outcomes_of(observed), weight).text(made))
    left_out = f"; {len(stored) - len(rows)} rows of reserved programs left out" if len(rows) < len(stored) else ""
    lines = [
        [name, number(error, 4), rank] for name, error, rank in zip(("declared", "learned"), errors, ranks, strict=True)
    ]
    head = ["effect", "squared error, programs left out", "rank of the first right repair, mean"]
    return "\n\n".join(
        [
            provenance_line(rows),
            f"{len(observed)} repairs tried alone in {programs} programs; an effect declared counts for {weight:g}"
            + left_out,
            table(head, lines),
        ]
    )


def observations(rows: Iterable[Row]) -> list[Observation]:
    """Return what repairs did alone against problems that they declare, in trainings whose fix beats the original."""
    observed, declared = [], declared_effects()
    for row in rows:
        task, reachable = row["task"], row["fixed"] - row["given"]
        if not reachable > 0:
            continue
        training = f"{task['framework']} {task['case']} {task['seed']}"
        for entry in row["methods"]:
            if not math.isfinite(entry.get("baseline", math.nan)):  # it could not run: there is no gain to measure
                continue
            for problem, variant, score in entry.get("tried", ()):
                if problem not in declared.get(variant.split(" ")[0], {}):  # a refinement of another repair
                    continue
                gain = math.nan if score is None else (score - entry["baseline"]) / reachable
                share = float(np.clip(gain, 0, 1)) if math.isfinite(gain) else 0.0
                observed.append(Observation(case_of(task).family, training, problem, variant, share))
    return observed


def outcomes_of(observed: Iterable[Observation]) -> dict[str, dict[str, Outcome]]:
    """Return the outcomes by problem and variant; each program counts once, with the mean over its trainings."""
    gains: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for o in observed:
        gains[o.problem, o.variant][o.program].append(o.gain)
    outcomes: dict[str, dict[str, Outcome]] = defaultdict(dict)
    for (problem, variant), by_program in gains.items():
        means = [math.fsum(values) / len(values) for values in by_program.values()]
        outcomes[problem][variant] = Outcome(len(means), math.fsum(means))
    return dict(outcomes)


def _best_weight(
    observed: Sequence[Observation], declared: Mapping[str, Mapping[str, float]]
) -> tuple[float, tuple[float, float], tuple[str, str]]:
    """Return the weight, and errors and ranks without and with the table.

    The weight is the largest whose error on programs left out is within one standard error of the least (the
    one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984, section 3.4.3), so that few
    programs don't overrule what a repair declares.
    """
    programs = sorted({o.program for o in observed})
    others = {program: outcomes_of(o for o in observed if o.program != program) for program in programs}

    def known(o: Observation) -> float:
        return declared.get(o.variant.split(" ")[0], {}).get(o.problem, 0.0)

    def learned(o: Observation, weight: float) -> float:
        return Experience(others[o.program], weight).effect(o.problem, o.variant, known(o))

    def errors(effects: Sequence[float]) -> list[float]:
        squares: dict[str, list[float]] = defaultdict(list)
        for o, effect in zip(observed, effects, strict=True):
            squares[o.program].append((effect - o.gain) ** 2)
        return [float(np.mean(values)) for values in squares.values()]

    by_weight = {weight: [learned(o, weight) for o in observed] for weight in WEIGHTS}
    least = min((errors(effects) for effects in by_weight.values()), key=np.mean)
    tolerated = np.mean(least) + np.std(least, ddof=1) / math.sqrt(len(least)) if len(least) > 1 else math.inf
    weight = max(weight for weight in WEIGHTS if np.mean(errors(by_weight[weight])) <= tolerated)
    plain = [known(o) for o in observed]
    return (
        weight,
        (float(np.mean(errors(plain))), float(np.mean(errors(by_weight[weight])))),
        (_mean_rank(observed, plain), _mean_rank(observed, by_weight[weight])),
    )


def _mean_rank(observed: Sequence[Observation], effects: Sequence[float]) -> str:
    """Return the mean position of the first right repair, where repairs of one training are ordered by effect."""
    trainings: dict[str, list[tuple[float, Observation]]] = defaultdict(list)
    for o, effect in zip(observed, effects, strict=True):
        trainings[o.training].append((-effect, o))
    ranks: dict[str, list[float]] = defaultdict(list)
    for tried in trainings.values():
        in_order = [o for _, o in sorted(tried, key=lambda entry: entry[0])]
        right = next((place for place, o in enumerate(in_order, 1) if o.gain >= _BEST), None)
        if right is not None and len(in_order) > 1:
            ranks[in_order[0].program].append(right)
    if not ranks:
        return "–"
    mean, low, high = bootstrap_mean(ranks)
    return f"{mean:.2f} ({low:.2f}–{high:.2f}, {sum(map(len, ranks.values()))} trainings)"
