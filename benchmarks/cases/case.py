"""Cases: trainings with a known fault and, if known, their fix.

A case is one line of ``benchmarks/cases/*.jsonl``, the same for every framework. ``fix`` is a patch: its keys replace
those of the case, and ``dataset`` is merged key by key.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.cases.problems import FAULT_PROBLEMS, SYMPTOM_PROBLEMS
from benchmarks.cases.sources import SOURCES, case_row, is_source, source_names
from benchmarks.cases.vocabulary import HABITS, check_program

__all__ = ["FAULT_PROBLEMS", "SYMPTOM_PROBLEMS", "Case", "Program", "load_cases"]

_FOLDER = Path(__file__).parent

_CEILINGS = {"circle": 0.854, "blob": 0.833}  # two layers of 64 ReLU units, measured


@dataclass(frozen=True, slots=True)
class Program:
    """One training, described independently of a framework.

    Attributes:
        layers: Layers in forward order, each with ``type`` and its settings.
        loss: One of `vocabulary.LOSSES`: ``…_logits`` on logits, ``…_sum`` summed over the batch, other
            cross-entropies on probabilities.
        optimizer: ``name``, ``lr`` and optionally ``momentum``, ``nesterov``, ``beta_1``, ``beta_2``,
            ``weight_decay``, and ``clip_norm``: gradients are scaled down to this norm before each step.
        batch_size: Rows of a batch.
        epochs: Planned epochs.
        dataset: Where the arrays come from, and how they are scaled and encoded.
        default_init: Initializer of layers without their own: ``glorot_uniform`` or ``framework``.
        metric: ``accuracy``, ``binary_accuracy`` (mean over labels), ``tag_accuracy`` (over time steps) or ``r2``.
        loop: Faults of the training loop (`benchmarks.cases.vocabulary.LOOP`).
    """

    layers: tuple[Mapping[str, Any], ...]
    loss: str
    optimizer: Mapping[str, Any]
    batch_size: int
    epochs: int
    dataset: Mapping[str, Any]
    default_init: str
    metric: str
    loop: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        """Encoding of the targets."""
        return str(self.dataset["label_encoding"])

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Program:
        """Build the recipe from a line of a case file."""
        values = {name: row[name] for name in cls.__dataclass_fields__ if name != "loop"}
        return cls(**{**values, "layers": tuple(values["layers"]), "loop": row.get("loop", {})})

    def managed(self, framework: str) -> bool:
        """Return whether `autotrainer.fit` can run this training: not if the fault is in a custom loop."""
        clips = framework == "pytorch" and "clip_norm" in self.optimizer
        return not clips and set(self.loop) <= {"shuffle", *HABITS}


_PARTS = tuple(part.name for part in fields(Program))


@dataclass(frozen=True, slots=True)
class Case:
    """A faulty (or verified healthy) training and its fix.

    Attributes:
        id: Its name.
        source: ``real`` and ``real2`` (programs from forums; the second were unseen when first measured),
            ``world`` and ``world_hidden`` (more of them; the second stay unseen), ``zoo`` (AUTOTRAINER's benchmark,
            one per equal architecture), one of `sources.SOURCES`, or the path of a case file.
        original: The original training.
        fixed: The known good training, or None.
        faults: Descriptions of the faults; empty for the zoo.
        symptoms: Problems that the original training shows, measured or from the literature.
        measured: Scores measured beforehand: ``torch``/``keras`` with ``buggy`` and ``fixed`` scores over seeds,
            or ``verdict`` for the zoo.
        frameworks: Frameworks in which the fault can exist.
        component: The part of a transformer that the fault is in; empty for other cases.
    """

    id: str
    source: str
    original: Program
    fixed: Program | None
    faults: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    frameworks: tuple[str, ...] = ("pytorch", "keras3")
    component: str = ""

    @property
    def accepted(self) -> frozenset[str]:
        """Problem names that name the true cause of this case."""
        names = set(self.symptoms)
        for symptom in self.symptoms:
            names.update(SYMPTOM_PROBLEMS.get(symptom, ()))
        for fault in self.faults:
            names.update(FAULT_PROBLEMS[fault])
        return frozenset(names)

    @property
    def family(self) -> str:
        """The program that the case is made from: its family or data set if it is generated, else the case itself.

        Models of the zoo share their data and belong together; so do transformers with faults in one component.
        """
        if self.component:
            return self.component
        if is_source(self.source):
            return self.id.split(".")[0]
        return str(self.original.dataset["generator"]) if self.source == "zoo" else self.id

    @property
    def healthy(self) -> bool:
        """Whether the case is a working training: no fault, no symptom, no fix, but a score that it has to reach."""
        return not (self.faults or self.symptoms or self.fixed) and "torch" in self.measured

    @property
    def recipe(self) -> str:
        """Checksum of both trainings, which changes when the case is edited."""
        programs = [
            None if program is None else [getattr(program, part) for part in _PARTS]
            for program in (self.original, self.fixed)
        ]
        return f"{zlib.crc32(json.dumps(programs, sort_keys=True).encode()):08x}"

    @property
    def ceiling(self) -> float | None:
        """Validation accuracy that a good network reaches on AUTOTRAINER's data, None for other data."""
        return _CEILINGS.get(str(self.original.dataset.get("generator")))

    def reference(self, framework: str) -> float:
        """Return the score that the known good training reaches: median over the measured seeds, NaN if unknown."""
        runs = self.measured.get("keras" if framework == "keras3" else "torch") or self.measured.get("torch")
        scores = sorted(runs["fixed"]) if runs else []
        return float(scores[len(scores) // 2]) if scores else float("nan")


def load_cases(sources: Iterable[str] = ("real", "zoo"), names: Sequence[str] = ()) -> list[Case]:
    """Read the case files.

    Args:
        sources: ``real``, ``real2``, ``world``, ``world_hidden``, ``zoo``; a custom case file, ``….jsonl``; generated
            cases: `sources.source_names`.
        names: Ids to keep; empty for all.

    Raises:
        ConfigError: If a source or an id is unknown, or a case file is broken.
        DataError: If generated cases need data that are not available on this machine.
    """
    cases: list[Case] = []
    sources = list(sources)
    for source in sources:
        kind = is_source(source)
        if kind:
            requested = [name for name in names if len(sources) == 1 or name.count(".") == 3]
            ids = requested if names else source_names(source)
            cases += [_case(case_row(name), kind) for name in ids]
        else:
            cases += _read(source)
    unknown = sorted(set(names) - {c.id for c in cases})
    if unknown:
        raise ConfigError(f"unknown case {unknown[0]!r} in {', '.join(sources)}")
    return [c for c in cases if not names or c.id in names]


def _read(source: str) -> list[Case]:
    path = Path(source) if source.endswith(".jsonl") else _FOLDER / f"{source}.jsonl"
    if not path.is_file():
        files = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.jsonl")))
        raise ConfigError(
            f"unknown source of cases {source!r}: choose from {files}, {', '.join(SOURCES)} (also :COUNT:SEED@NAMES) "
            "or a .jsonl file"
        )
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            cases.append(_case(json.loads(line), source))
        except (ConfigError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"{path}, line {number}: {reason}") from error
        if cases[-1].id in (case.id for case in cases[:-1]):
            raise ConfigError(f"{path}, line {number}: duplicate case {cases[-1].id!r}")
    return cases


def _case(row: dict[str, Any], source: str) -> Case:
    check_program(row)
    fix, patched = row.get("fix"), None
    if fix is not None:
        fixed = {**row, **fix, "dataset": {**row["dataset"], **fix.get("dataset", {})}}
        check_program(fixed)
        patched = Program.from_row(fixed)
    unknown = sorted(set(row.get("faults", ())) - set(FAULT_PROBLEMS))
    if unknown:
        raise ConfigError(f"unknown fault {unknown[0]!r}: it has no entry in benchmarks/cases/problems.py")
    return Case(
        id=row["id"],
        source=source,
        original=Program.from_row(row),
        fixed=patched,
        faults=tuple(row.get("faults", ())),
        symptoms=(*row.get("expected_symptoms", ()), *row.get("published", ())),
        measured=row.get("measured", {}),
        frameworks=tuple(row.get("frameworks", ("pytorch", "keras3"))),
        component=row.get("component", ""),
    )
