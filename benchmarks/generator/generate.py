"""Generates pairs of a faulty and a healthy training by injecting faults into a working training.

A case is named ``DATA.NETWORK.FAULT.SEED``, with several faults ``FAULT+FAULT``, and is fully determined by its name.
The seed draws sizes, initializer, optimizer and the strength of the faults. Whether a fault shows is decided by the
scores, as for all cases.
"""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from autotrainer.errors import ConfigError
from benchmarks.generator.faults import MODEL_FAULTS, Fault
from benchmarks.generator.faults_data import DATA_FAULTS, LOOP_FAULTS
from benchmarks.generator.recipes import DATA, Row, healthy

__all__ = ["BY_NAME_ONLY", "DATA", "FAULTS", "TWO_FAULT_INTERVAL", "generate", "names"]

FAULTS: Mapping[str, Fault] = {**MODEL_FAULTS, **DATA_FAULTS, **LOOP_FAULTS}
"""Faults by name, in the order in which several are injected into one training."""

BY_NAME_ONLY = ("mse_for_labels",)
"""Faults that hardly ever show: generated only when named."""

TWO_FAULT_INTERVAL = 5
"""One case in this many has two faults: AUTOTRAINER's 262 and 422 faulty models have 316 and 506 problems."""

_SEEDS = 1000
"""Case seeds reserved for one seed of `names`: more than any combination is repeated."""

_MAX_DUPLICATES = 1000
"""The search for new cases ends after this many duplicates in a row."""


def names(count: int, seed: int = 0, data: Sequence[str] = ()) -> list[str]:
    """Return names of distinct cases: the faults in turn, each on its data sets and networks in turn.

    Args:
        count: Number of cases; each is a pair of a faulty and a healthy training.
        seed: Determines the order, and cases that no other seed has.
        data: Data sets; empty for all that need no file.

    Raises:
        ConfigError: If a data set is unknown, or the data sets have too few cases.
    """
    unknown = sorted(set(data) - set(DATA))
    if unknown:
        raise ConfigError(f"unknown data set {unknown[0]!r}: choose from {', '.join(DATA)}")
    chosen = list(dict.fromkeys(data)) or [name for name, spec in DATA.items() if "rows" not in spec]
    draw = np.random.default_rng(seed)
    cases: dict[str, str] = {}  # by everything in the case except its name
    duplicates = 0
    for fault, name, kind, number in _combinations(chosen, draw):
        if len(cases) >= count:
            break
        if duplicates == _MAX_DUPLICATES:
            raise ConfigError(f"no {count} different cases on {', '.join(chosen)}: only {len(cases)}")
        second = _second(name, kind, fault, draw) if len(cases) % TWO_FAULT_INTERVAL == TWO_FAULT_INTERVAL - 1 else None
        faults = sorted({fault, second or fault}, key=list(FAULTS).index)
        case = f"{name}.{kind}.{'+'.join(faults)}.{_SEEDS * seed + number}"
        first = cases.setdefault(json.dumps({**generate(case), "id": ""}, sort_keys=True), case)
        duplicates = 0 if first == case else duplicates + 1
    return list(cases.values())


def _combinations(data: Sequence[str], draw: np.random.Generator) -> Iterator[tuple[str, str, str, int]]:
    """Yield fault, data set, network and number of the repetition, without end.

    A fault takes part in every round; one with fewer than four combinations in fewer rounds.
    """
    combinations: dict[str, list[tuple[str, str]]] = {}
    for fault in (fault for fault in FAULTS if fault not in BY_NAME_ONLY):
        pairs = [(name, kind) for name in data for kind in DATA[name]["kinds"] if _applies(name, kind, fault)]
        if pairs:
            combinations[fault] = [pairs[i] for i in draw.permutation(len(pairs))]
    order = [list(combinations)[i] for i in draw.permutation(len(combinations))]
    for turn in itertools.count():
        for fault in order:
            interval = -(-4 // len(combinations[fault]))
            if turn % interval == 0:
                number, index = divmod(turn // interval, len(combinations[fault]))
                yield fault, *combinations[fault][index], number


def generate(name: str) -> Row:
    """Return a case as a line of a case file.

    Args:
        name: ``DATA.NETWORK.FAULT.SEED``.

    Raises:
        ConfigError: If the data set, network or fault is unknown, or they can't be combined.
    """
    parts = name.split(".")
    faults = parts[2].split("+") if len(parts) == 4 else []
    if not faults or parts[0] not in DATA or not set(faults) <= set(FAULTS) or not parts[3].isdecimal():
        raise ConfigError(
            f"a generated case is named DATA.NETWORK.FAULT.SEED, not {name!r}; "
            f"data: {', '.join(DATA)}; faults: {', '.join(FAULTS)}"
        )
    data, kind, *_ = parts
    draw = np.random.default_rng(zlib.crc32(name.encode()))
    working = healthy(data, kind, draw, _optimizer(faults)) if kind in DATA[data]["kinds"] else None
    change = _change(working, data, faults, draw) if working is not None else None
    if working is None or change is None:
        raise ConfigError(f"{' and '.join(faults)} can't be injected into {kind} on {data}")
    fix = {part: working.get(part, {}) for part in change}
    if "dataset" in change:  # a fix replaces settings of the data one by one
        fix["dataset"] = {**dict.fromkeys(change["dataset"]), **working["dataset"]}
    return {
        **working,
        **change,
        "id": name,
        "faults": list(dict.fromkeys(FAULTS[fault].description for fault in faults)),
        "fix": fix,
        "measured": {"torch": {"fixed": [DATA[data]["reached"]]}},
        "frameworks": [f for f in ("pytorch", "keras3") if all(f in FAULTS[fault].frameworks for fault in faults)],
    }


def _change(working: Row, data: str, faults: Sequence[str], draw: np.random.Generator) -> Row | None:
    """Return what faults change in a training, or None if one of them can't be injected."""
    parts = [part for fault in faults for part in FAULTS[fault].parts]
    if len(set(parts)) < len(parts):
        return None
    change: Row = {}
    for fault in sorted(faults, key=list(FAULTS).index):
        more = FAULTS[fault].inject({**working, **change}, DATA[data], draw)
        if more is None:
            return None
        change.update(more)
    return change


def _applies(data: str, kind: str, *faults: str) -> bool:
    draw = np.random.default_rng(0)
    return _change(healthy(data, kind, draw, _optimizer(faults)), data, faults, draw) is not None


def _optimizer(faults: Sequence[str]) -> str:
    return next((FAULTS[fault].optimizer for fault in faults if FAULTS[fault].optimizer), "")


def _second(data: str, kind: str, fault: str, draw: np.random.Generator) -> str | None:
    """Return a second fault that can be combined with the first, or None if there is none."""
    others = [other for other in FAULTS if other not in BY_NAME_ONLY]
    compatible = [other for other in others if _applies(data, kind, *sorted((fault, other), key=list(FAULTS).index))]
    return compatible[int(draw.integers(len(compatible)))] if compatible else None
