"""Cases of the families: names, and the training that a name determines.

A case is named ``FAMILY.KIND.FAULT.SEED``; two faults are joined by ``+``, and ``healthy`` stands for none.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.generator.families.examples import EXAMPLES
from benchmarks.generator.families.family import Family
from benchmarks.generator.families.registry import FAMILIES
from benchmarks.generator.faults_families import FAMILY_FAULTS, fits
from benchmarks.generator.generate import BY_NAME_ONLY
from benchmarks.generator.recipes import Row

__all__ = ["HEALTHY", "family_case", "family_names", "healthy_names"]

HEALTHY = "healthy"
"""Takes the place of the fault in the name of a working training."""

_SEEDS = 1000
"""Case seeds reserved for one seed of `family_names`."""

_TWO_FAULT_INTERVAL = 5
"""One case in this many has two faults."""


def family_names(count: int, seed: int, families: Sequence[str]) -> list[str]:
    """Return names of pairs of a faulty and a healthy training: the families in turn, each with its faults in turn.

    Args:
        count: Number of names.
        seed: Determines faults, data and everything else that is drawn.
        families: Names of families.

    Raises:
        ConfigError: If a family is unknown.
    """
    draw = np.random.default_rng([seed, 1])
    turns = {name: _combinations(name, seed, draw) for name in _existing(families)}
    names: list[str] = []
    while len(names) < count:
        for family, turn in turns.items():
            kind, fault, number = next(turn)
            if len(names) % _TWO_FAULT_INTERVAL == _TWO_FAULT_INTERVAL - 1:
                fault = _with_second(family, kind, fault, number, draw)
            names.append(f"{family}.{kind}.{fault}.{number}")
    return names[:count]


def healthy_names(count: int, seed: int, families: Sequence[str]) -> list[str]:
    """Return names of working trainings: the families in turn, each with its kinds in turn."""
    chosen = _existing(families)
    rounds = range(-(-count // len(chosen)))
    names = []
    for number in rounds:
        for name in chosen:
            kinds = _family(name).kinds
            names.append(f"{name}.{kinds[number % len(kinds)]}.{HEALTHY}.{_SEEDS * seed + number}")
    return names[:count]


def family_case(name: str) -> Row:
    """Return a case as a line of a case file.

    Args:
        name: ``FAMILY.KIND.FAULT.SEED``.

    Raises:
        ConfigError: If the family, kind or fault is unknown, or they can't be combined.
    """
    family, kind, fault, number = name.split(".")
    if kind not in _family(family).kinds or not number.isdecimal():
        kinds = ", ".join(_family(family).kinds)
        raise ConfigError(f"{name!r} is not a case of {family}: kinds are {kinds}, and the seed is a number")
    # The healthy twin of every fault of this kind and seed is the same training
    working, spec = _family(family).recipe(
        kind, np.random.default_rng(zlib.crc32(f"{family}.{kind}.{number}".encode()))
    )
    frameworks = ["pytorch"] if working["loss"] == "composite" else ["pytorch", "keras3"]
    row = {**working, "id": name, "faults": [], "measured": {"torch": {"fixed": [spec["reached"]]}}}
    if fault == HEALTHY:
        return {**row, "frameworks": frameworks}
    faults = fault.split("+")
    unknown = sorted(set(faults) - set(FAMILY_FAULTS))
    if unknown:
        raise ConfigError(f"unknown fault {unknown[0]!r} in {name!r}: choose from {', '.join(FAMILY_FAULTS)}")
    change = _change(family, working, spec, faults, np.random.default_rng(zlib.crc32(name.encode())))
    if change is None:
        raise ConfigError(f"{' and '.join(faults)} can't be injected into {family}.{kind}.{number}")
    fix = {part: working[part] for part in change}
    if "dataset" in change:
        fix["dataset"] = {**dict.fromkeys(change["dataset"]), **working["dataset"]}
    possible = [f for f in frameworks if all(f in FAMILY_FAULTS[each].frameworks for each in faults)]
    descriptions = list(dict.fromkeys(FAMILY_FAULTS[each].description for each in faults))
    return {**row, **change, "faults": descriptions, "fix": fix, "frameworks": possible}


def _family(name: str) -> Family:
    return FAMILIES.get(name) or EXAMPLES[name]


def _existing(families: Sequence[str]) -> list[str]:
    unknown = sorted(set(families) - {*FAMILIES, *EXAMPLES})
    if unknown:
        raise ConfigError(f"unknown family {unknown[0]!r}: choose from {', '.join((*FAMILIES, *EXAMPLES))}")
    return list(dict.fromkeys(families))


def _change(family: str, working: Row, spec: Row, faults: Sequence[str], draw: np.random.Generator) -> Row | None:
    """Return what faults change in a training, or None if one of them can't be injected or changes nothing."""
    parts = [part for fault in faults for part in FAMILY_FAULTS[fault].parts]
    allowed = _family(family).faults
    if len(set(parts)) < len(parts) or (allowed and not set(faults) <= set(allowed)):
        return None
    change: Row = {}
    for fault in sorted(faults, key=list(FAMILY_FAULTS).index):
        current = {**working, **change}
        more = FAMILY_FAULTS[fault].inject(current, spec, draw) if fits(fault, current, spec) else None
        if more is None:
            return None
        if "loop" in more:
            more = {**more, "loop": {**current["loop"], **more["loop"]}}
        if all(current[part] == value for part, value in more.items()):
            return None
        change.update(more)
    return change


def _combinations(family: str, seed: int, draw: np.random.Generator) -> Iterator[tuple[str, str, int]]:
    """Yield kind, fault and number of a case, without end; each fault once in a round, with the kinds in turn."""
    kinds = _family(family).kinds
    faults = [fault for fault in FAMILY_FAULTS if fault not in BY_NAME_ONLY]
    number, misses = 0, 0
    while True:
        for fault in (faults[i] for i in draw.permutation(len(faults))):
            for kind in (kinds[i] for i in draw.permutation(len(kinds))):
                name = f"{family}.{kind}.{fault}.{_SEEDS * seed + number}"
                if _exists(name):
                    yield kind, fault, _SEEDS * seed + number
                    number, misses = number + 1, 0
                    break
            else:
                misses += 1
                if misses > 5 * len(faults):
                    raise ConfigError(f"no fault can be injected into {family}")


def _exists(name: str) -> bool:
    try:
        family_case(name)
    except ConfigError:
        return False
    return True


def _with_second(family: str, kind: str, fault: str, number: int, draw: np.random.Generator) -> str:
    """Return the fault joined with a second one that can be combined with it; the fault alone if there is none."""
    for second in (list(FAMILY_FAULTS)[i] for i in draw.permutation(len(FAMILY_FAULTS))):
        both = "+".join(sorted({fault, second}, key=list(FAMILY_FAULTS).index))
        if second != fault and _exists(f"{family}.{kind}.{both}.{number}"):
            return both
    return fault
