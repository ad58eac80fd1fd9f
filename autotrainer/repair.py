"""The base of all repairs, and all that a repair needs to import beside the edits that it proposes."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from autotrainer.edits import Edit
from autotrainer.records.findings import Finding
from autotrainer.records.task import TargetSummary, TaskContext

__all__ = ["DOC_SECTIONS", "Dimension", "Finding", "Proposal", "Repair", "Risk", "TargetSummary", "TaskContext"]

DOC_SECTIONS = ("What it does", "Why it helps", "Safety", "Cost", "References")
"""Headings that the docstring of every repair has, in this order: it is the page that ``explain`` shows."""


class Risk(StrEnum):
    """What can go wrong with a repair.

    ``safe``: proven right by the evidence, or harmless. ``unsafe``: to be judged by its outcome. ``advice``: only
    told, never applied.
    """

    SAFE = "safe"
    UNSAFE = "unsafe"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One concrete way to repair.

    Attributes:
        repair: Name of the repair.
        edits: What it changes.
        effect: Prior chance, in [0, 1], that it repairs the problem.
        cost: Work of a training with it, relative to one without.
    """

    repair: str
    edits: tuple[Edit, ...]
    effect: float
    cost: float = 1.0

    @property
    def change(self) -> int:
        """How far it changes the training, 0 to 3."""
        return max(edit.change for edit in self.edits)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One setting that a search without evidence may vary.

    Attributes:
        repair: Name of the repair whose setting it is.
        options: Edits for each value; values of a number in their order.
    """

    repair: str
    options: tuple[tuple[Edit, ...], ...]


class Repair(ABC):
    """One way of repairing. Pure: sees findings and context, never a framework or a model."""

    name: ClassVar[str]
    fixes: ClassVar[Mapping[str, float]]
    """Problems that it can repair, with the prior chance that it does, in [0, 1]."""
    risk: ClassVar[Risk] = Risk.UNSAFE
    needs: ClassVar[frozenset[str]] = frozenset()
    """`FACTS` of the context that `propose` reads: they are asked for only where some repair needs them."""

    @abstractmethod
    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose edits against a finding, best first.

        Args:
            finding: One of the problems in `fixes`.
            context: The training as it is now, with the edits in force.
            targets: What the targets look like.

        Returns:
            Proposals; none where the repair makes no sense here.
        """

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Return what a search without evidence may vary by this repair, or None: most repairs answer evidence only.

        Args:
            context: The training as given.
        """
        return None

    @classmethod
    def documentation(cls) -> str:
        """Return the repair's page: its docstring, cleaned."""
        return inspect.getdoc(cls) or ""
