"""Reports: everything known of a run, as text, JSON and HTML. They hold statistics, never samples or targets."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Self

from autotrainer._version import __version__
from autotrainer.errors import InputError, nearest
from autotrainer.files import write_atomic
from autotrainer.findings import Finding
from autotrainer.history import RunHistory
from autotrainer.task import TaskContext

__all__ = ["AttemptRow", "Outcome", "Points", "Report", "points"]

FORMAT = 1
"""Version of the JSON form."""

_MAX_POINTS = 400

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt of `autotrainer.fit`: its repairs, score, cost in trainings, what went wrong, what remains.

    ``epochs`` are those that it was trained for where that was only to see whether it is worth more; None: to its end.
    ``verdict`` is what one of them, or the training as given (no repairs), told of a gain with another seed; or empty.
    ``start`` is the epoch of the training as given in which it began.
    """

    repairs: tuple[str, ...]
    score: float | None
    cost: float
    error: str | None
    remaining: tuple[str, ...]
    chosen: bool
    epochs: int | None = None
    start: int = 0
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `autotrainer.fit` came to; fields as in `autotrainer.Result`, with the patch in words."""

    status: str
    stopped_by: str
    metric: str
    score: float
    baseline_score: float
    test_score: float | None
    baseline_test_score: float | None
    cost: float
    patch: str | None
    changes: tuple[str, ...]
    attempts: tuple[AttemptRow, ...]
    left_out: Mapping[str, str]
    """Repairs that could not be used here, with the reason."""
    doubtful: bool = False
    epochs: int = 0
    """Planned epochs; 0 where they are not known."""
    mode: str = "max"


@dataclass(frozen=True, slots=True)
class Report:
    """A report of one run.

    Attributes:
        findings: Findings, ranked.
        run: Facts of the run by name (``framework``, ``steps``, ``epochs``, ``layers``, …).
        curves: Named curves, each a sequence of (step or epoch, value).
        outcome: What a managed training came to; None for a watched or replayed run.
    """

    findings: tuple[Finding, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    outcome: Outcome | None = None

    @classmethod
    def of_run(cls, findings: Sequence[Finding], history: RunHistory, context: TaskContext) -> Self:
        """Build the report of a watched or replayed run.

        Args:
            findings: The findings, ranked.
            history: What was measured.
            context: What is known of the training.
        """
        facts = {
            "framework": context.framework,
            "engine": context.engine,
            "layers": len(context.layers),
            "parameters": sum(layer.parameters for layer in context.layers),
            "loss": context.loss.name,
            "optimizer": context.optimizer.name,
            "learning_rate": context.optimizer.learning_rate,
            "steps": max(0, history.step + 1),
            "epochs": history.epoch,
            "sampled_steps": len(history.steps),
        }
        curves = {"loss": points(*history.losses)}
        if len(history.epochs("val_loss")[0]):
            epochs, values = history.epochs("val_loss")
            curves["val_loss"] = points([history.step_of_epoch(int(e)) for e in epochs], values)
        return cls(tuple(findings), facts, curves)

    def __str__(self) -> str:
        from autotrainer.report_text import render

        return render(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that strict JSON can hold; numbers that are not finite become None or strings."""
        return {
            "autotrainer_report": FORMAT,
            "version": __version__,
            "findings": [finding.to_dict() for finding in self.findings],
            "run": _plain(self.run),
            "curves": _plain(self.curves),
            "result": None if self.outcome is None else _plain(asdict(self.outcome)),
        }

    def to_json(self) -> str:
        """Return the report as strict JSON; ``autotrainer_report`` is the version of the form."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_html(self) -> str:
        """Return the report as one HTML page without any outside resource."""
        from autotrainer.report_html import render

        return render(self)

    def save(self, path: str | Path) -> Path:
        """Write the report; a file that was there stays until the new one is complete.

        Args:
            path: File whose suffix says the form: ``.html``, ``.json`` or ``.txt``.

        Returns:
            The path.

        Raises:
            InputError: If the suffix is unknown or the file can't be written.
        """
        forms = {".html": self.to_html, ".json": self.to_json, ".txt": self.__str__}
        if not isinstance(path, str | PathLike):
            raise InputError(f"a report is saved to a path, not to {type(path).__name__}")
        suffix = Path(path).suffix.lower()
        if suffix not in forms:
            hint = nearest(suffix, forms)
            raise InputError(f"can't save a report as {str(path)!r}: the suffix says the form, {hint}")
        return write_atomic(path, forms[suffix]() + "\n")


def points(positions: Iterable[Any], values: Iterable[Any]) -> Points:
    """Pair positions and values; at most `_MAX_POINTS` of them, evenly spread."""
    pairs = [(float(x), float(y)) for x, y in zip(positions, values, strict=True)]
    if len(pairs) > _MAX_POINTS:
        last = len(pairs) - 1
        pairs = [pairs[round(i * last / (_MAX_POINTS - 1))] for i in range(_MAX_POINTS)]
    return tuple(pairs)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
