"""Names of cases of transformers, ``transformers.KIND.FAULT.SEED``, and the trainings that they determine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.generator.recipes import Row
from benchmarks.generator.transformers.faults import COMPONENTS, FAULTS, change
from benchmarks.generator.transformers.recipes import KINDS, reached, working

__all__ = ["FAMILY", "HEALTHY", "transformer_case", "transformer_names"]

FAMILY = "transformers"

HEALTHY = "healthy"
"""Takes the place of the fault in the name of a working training; as a component: working trainings alone."""

_SEEDS = 1000
"""Case seeds reserved for one seed of `transformer_names`."""


def transformer_names(count: int, seed: int, chosen: Sequence[str] = ()) -> list[str]:
    """Return names of cases: the components in turn, each with its faults in turn, each with its kinds in turn.

    Args:
        count: Number of names.
        seed: Determines data, networks and everything else that is drawn.
        chosen: Components, or ``healthy``; empty for all components.

    Raises:
        ConfigError: If a component is unknown.
    """
    unknown = sorted(set(chosen) - {*COMPONENTS, HEALTHY})
    if unknown:
        raise ConfigError(f"unknown component {unknown[0]!r}: choose from {', '.join((*COMPONENTS, HEALTHY))}")
    draw = np.random.default_rng([seed, 2])
    turns = {component: _turns(component, draw) for component in chosen or COMPONENTS}
    names = []
    for index in range(count):
        component = list(turns)[index % len(turns)]
        turn = index // len(turns)
        faults = turns[component]
        fault = faults[turn % len(faults)]
        kinds = FAULTS[fault].kinds if fault in FAULTS else KINDS
        kind = kinds[(turn + turn // len(faults) + index) % len(kinds)]
        names.append(f"{FAMILY}.{kind}.{fault}.{_SEEDS * seed + index}")
    return names


def transformer_case(name: str) -> Row:
    """Return a case as a line of a case file.

    Raises:
        ConfigError: If the kind or fault is unknown, or they can't be combined.
    """
    family, kind, fault_name, number = name.split(".")
    fault = FAULTS.get(fault_name)
    if kind not in KINDS or not number.isdecimal() or (fault is None and fault_name != HEALTHY):
        raise ConfigError(
            f"{name!r} is not a case of {family}: kinds are {', '.join(KINDS)}; faults {', '.join(FAULTS)}"
        )
    draw = np.random.default_rng(zlib.crc32(f"{family}.{kind}.{number}".encode()))
    if fault is None:
        row = working(kind, draw)
        row |= {"faults": [], "frameworks": ["pytorch", "keras3"]}
    else:
        if kind not in fault.kinds:
            raise ConfigError(f"{fault_name} can't be injected into {kind}")
        needs = dict(fault.needs)
        if fault.styles:
            needs["styles"] = fault.styles
        row = working(kind, draw, **needs)
        changed = change(fault, row, np.random.default_rng(zlib.crc32(name.encode())))
        row |= {**changed, "fix": {part: row[part] for part in changed}, "faults": [fault.description]}
        row |= {"frameworks": list(fault.frameworks), "component": fault.component}
    return {**row, "id": name, "measured": {"torch": {"fixed": [reached(kind, row)]}}}


def _turns(component: str, draw: np.random.Generator) -> list[str]:
    if component == HEALTHY:
        return [HEALTHY]
    faults = [name for name, fault in FAULTS.items() if fault.component == component]
    return [faults[i] for i in draw.permutation(len(faults))]
