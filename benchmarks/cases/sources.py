"""Sources of generated cases: `generator.generate` and the families."""

from __future__ import annotations

import re
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.data.files import FILES, find
from benchmarks.generator.families.examples import EXAMPLES
from benchmarks.generator.families.generate import family_case, family_names, healthy_names
from benchmarks.generator.families.registry import FAMILIES, OPEN, RESERVED, RESERVED_SEEDS
from benchmarks.generator.generate import generate
from benchmarks.generator.generate import names as generated_names
from benchmarks.generator.transformers.names import FAMILY as TRANSFORMERS
from benchmarks.generator.transformers.names import transformer_case, transformer_names

__all__ = ["CALIBRATION_SEEDS", "RESERVED_SEEDS", "SOURCES", "case_row", "is_reserved", "is_source", "is_unseen"]
__all__ += ["source_names"]

CALIBRATION_SEEDS = (0, 7, 11)
"""Seeds of ``generated`` that thresholds were chosen on."""

SOURCES = ("generated", "families", "unseen", "healthy", TRANSFORMERS)
"""``generated``: faults injected into fixed data sets. ``families``: the open families; ``unseen``: the reserved ones.
``healthy``: working trainings of all families, and examples. ``transformers``: faults of their components."""

_SOURCE = re.compile(rf"({'|'.join(SOURCES)})(?::([1-9]\d*)(?::(\d+))?)?(?:@(.+))?", re.ASCII)
"""Kind, count, seed and data sets or families."""


def is_source(source: str) -> str:
    """Return the kind of a source of generated cases, one of `SOURCES`; empty for any other source."""
    match = re.match(rf"({'|'.join(SOURCES)})\b", source)
    return "" if match is None or source.endswith(".jsonl") else match[1]


def is_reserved(source: str) -> bool:
    """Return whether cases of a source must not be used for calibration: a reserved family or seed."""
    match = _SOURCE.fullmatch(source)
    if match is None or match[1] == "generated":
        return source == "world_hidden"
    chosen = match[4].split("+") if match[4] else []
    reserved = match[1] in ("unseen", "healthy") or any(name in RESERVED for name in chosen)
    return reserved or int(match[3] or 0) >= RESERVED_SEEDS


def is_unseen(source: str, name: str) -> bool:
    """Return whether no threshold was chosen on a case: reserved families, seeds and programs, and other seeds of
    ``generated``.

    Args:
        source: Kind of source, as `Case.source`.
        name: Name of the case.
    """
    if source not in SOURCES:
        return source == "world_hidden"
    family, number = name.split(".")[0], int(name.split("+fix")[0].rsplit(".", 1)[1])
    seed = number // 1000
    if source == "generated":
        return seed not in CALIBRATION_SEEDS
    return family not in (*OPEN, TRANSFORMERS) or seed >= RESERVED_SEEDS


def source_names(source: str) -> list[str]:
    """Return the names of the cases of a source.

    Args:
        source: ``KIND``, ``KIND:COUNT`` (default 40), ``KIND:COUNT:SEED`` (default 0), each with
            ``@NAME+NAME``: only these data sets (``generated``), components (``transformers``, or ``healthy`` for
            working ones) or families.

    Raises:
        ConfigError: If the source is malformed, or a data set or family unknown.
        DataError: If the data are not available on this machine.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        kind = is_source(source)
        names = "moons+digits" if kind == "generated" else "tags+codes"
        raise ConfigError(
            f"{source!r} is not a valid source of generated cases: write {kind}:60, {kind}:60:7 or {kind}:60:7@{names}"
        )
    kind, count, seed = match[1], int(match[2] or 40), int(match[3] or 0)
    chosen = match[4].split("+") if match[4] else []
    if kind == "generated":
        ids = generated_names(count, seed, chosen)
        for name in chosen:
            if name in FILES:
                find(name)
        return ids
    if kind == TRANSFORMERS:
        return transformer_names(count, seed, chosen)
    if kind == "healthy":
        return healthy_names(count, seed, chosen or (*FAMILIES, *EXAMPLES))
    return family_names(count, seed, chosen or (OPEN if kind == "families" else RESERVED))


def case_row(name: str) -> dict[str, Any]:
    """Return a generated case, whatever its source, as a line of a case file.

    Raises:
        ConfigError: If there is no such case.
    """
    family = name.split(".")[0]
    if family == TRANSFORMERS and name.count(".") == 3:
        return transformer_case(name)
    in_family = name.count(".") == 3 and (family in FAMILIES or family in EXAMPLES)
    return family_case(name) if in_family else generate(name)
