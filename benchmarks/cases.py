"""Cases: trainings with a known fault and, where one is known, their fix.

A case is one line of ``benchmarks/cases/*.jsonl``, the same for every framework. ``fix`` is a patch: its keys replace
those of the case, and ``dataset`` is merged key by key.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autotrainer.errors import ConfigError
from benchmarks.generator import generate
from benchmarks.generator import names as generated_names

__all__ = ["FAULT_PROBLEMS", "SYMPTOM_PROBLEMS", "Case", "Program", "load_cases"]

_FOLDER = Path(__file__).parent / "cases"

FAULT_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    "batch too large": ("slow_convergence",),
    "batch too small": ("oscillating_loss",),
    "bad initialisation": ("poor_initialization", "dying_relu"),
    "dead activation": ("dying_relu",),
    "dropout too high": ("insufficient_capacity",),
    "labels -1/1 with cross-entropy": ("target_mismatch", "improper_loss"),
    "labels 1..2 with 3 outputs": ("target_mismatch",),
    "labels wrong shape": ("target_mismatch",),
    "log of zero": ("nonfinite",),
    "lr too high": ("exploding_gradient", "nonfinite", "oscillating_loss", "learning_rate_too_high", "divergence"),
    "lr too low": ("slow_convergence", "learning_rate_too_low"),
    "missing normalisation": ("abnormal_data",),
    "optimizer": (),
    "summed loss": ("exploding_gradient", "learning_rate_too_high"),
    "targets not scaled": ("unscaled_targets",),
    "targets out of output range": ("unscaled_targets", "improper_output_activation"),
    "too few epochs": ("too_few_epochs", "slow_convergence"),
    "too few units (1-unit bottleneck)": ("insufficient_capacity",),
    "too few units": ("insufficient_capacity",),
    "wrong hidden activation": ("vanishing_gradient", "saturated_activation", "dying_relu"),
    "wrong loss": ("improper_loss",),
    "wrong optimizer": (),
    "wrong output activation": ("improper_output_activation",),
}
"""Which problem names name a fault of a real program. Deliberately narrow: no entry lists `not_learning`."""

SYMPTOM_PROBLEMS: Mapping[str, tuple[str, ...]] = {
    "nonfinite": ("nonfinite", "exploding_gradient", "divergence"),
    "oscillating_loss": ("oscillating_loss", "learning_rate_too_high"),
}
"""Names of one thing: an activation that overflows is told as it explodes or once it has."""


_CEILINGS = {"circle": 0.854, "blob": 0.833}  # two layers of 64 ReLU units, measured


@dataclass(frozen=True, slots=True)
class Program:
    """One training, as a neutral recipe.

    Attributes:
        layers: Layers in forward order, each with ``type`` and its settings.
        loss: Name of the loss: ``bce``, ``bce_clipped``, ``cce``, ``scce``, ``cce_noclip_sum`` (on probabilities),
            ``bce_logits``, ``ce_logits``, ``mse``, ``mse_sum``.
        optimizer: ``name``, ``lr`` and, where given, ``momentum``, ``nesterov``, ``beta_1``, ``beta_2``.
        batch_size: Rows of a batch.
        epochs: Planned epochs.
        dataset: Where the arrays come from, and how they are scaled and encoded.
        default_init: Initializer of layers that name none: ``glorot_uniform`` or ``framework``.
        metric: ``accuracy``, ``tag_accuracy`` (over time steps) or ``r2``.
    """

    layers: tuple[Mapping[str, Any], ...]
    loss: str
    optimizer: Mapping[str, Any]
    batch_size: int
    epochs: int
    dataset: Mapping[str, Any]
    default_init: str
    metric: str

    @property
    def layout(self) -> str:
        """Form in which the targets are given."""
        return str(self.dataset["label_encoding"])

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Program:
        """Build the recipe from a line of a case file."""
        values = {name: row[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "layers": tuple(values["layers"])})


@dataclass(frozen=True, slots=True)
class Case:
    """A faulty (or verified healthy) training and its fix.

    Attributes:
        id: Its name.
        source: ``real`` (programs from forums) or ``zoo`` (AUTOTRAINER's benchmark, one per equal architecture).
        given: The training as given.
        fixed: The known good recipe, or None.
        faults: Faults in words; empty for the zoo.
        symptoms: Problems that the training as given shows, measured or from the literature.
        measured: Outcomes measured beforehand: ``torch``/``keras`` with ``buggy`` and ``fixed`` scores over seeds,
            or ``verdict`` for the zoo.
        frameworks: Frameworks in which the fault can exist.
    """

    id: str
    source: str
    given: Program
    fixed: Program | None
    faults: tuple[str, ...] = ()
    symptoms: tuple[str, ...] = ()
    measured: Mapping[str, Any] = field(default_factory=dict)
    frameworks: tuple[str, ...] = ("pytorch", "keras3")

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
    def ceiling(self) -> float | None:
        """Validation accuracy that a good network reaches on AUTOTRAINER's data, or None for other data."""
        return _CEILINGS.get(str(self.given.dataset.get("generator")))

    def reference(self, framework: str) -> float:
        """Return the score that the known good recipe reaches: median over the measured seeds, NaN if unknown."""
        of = self.measured.get("keras" if framework == "keras3" else "torch") or self.measured.get("torch")
        scores = sorted(of["fixed"]) if of else []
        return float(scores[len(scores) // 2]) if scores else float("nan")


def load_cases(sources: Iterable[str] = ("real", "zoo"), names: Sequence[str] = ()) -> list[Case]:
    """Read the case files.

    Args:
        sources: ``real``, ``zoo``, ``generated`` or ``generated:COUNT``.
        names: Ids to keep; empty for all.

    Raises:
        ConfigError: If a source or an id is unknown.
    """
    cases: list[Case] = []
    for source in sources:
        if source.split(":")[0] == "generated":
            made = names or generated_names(int(source.partition(":")[2] or 40))
            cases += [_case(generate(name), "generated") for name in made]
            continue
        path = _FOLDER / f"{source}.jsonl"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in _FOLDER.glob("*.jsonl")))
            raise ConfigError(f"unknown source of cases {source!r}: choose from {known}")
        cases += [_case(json.loads(line), source) for line in path.read_text(encoding="utf-8").splitlines()]
    unknown = sorted(set(names) - {c.id for c in cases})
    if unknown:
        raise ConfigError(f"unknown case {unknown[0]!r} in {', '.join(sources)}")
    return [c for c in cases if not names or c.id in names]


def _case(row: dict[str, Any], source: str) -> Case:
    fix = row.get("fix")
    patched = None
    if fix is not None:
        patched = Program.of({**row, **fix, "dataset": {**row["dataset"], **fix.get("dataset", {})}})
    return Case(
        id=row["id"],
        source=source,
        given=Program.of(row),
        fixed=patched,
        faults=tuple(row.get("faults", ())),
        symptoms=(*row.get("expected_symptoms", ()), *row.get("published", ())),
        measured=row["measured"],
        frameworks=tuple(row.get("frameworks", ("pytorch", "keras3"))),
    )
