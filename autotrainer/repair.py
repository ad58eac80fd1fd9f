"""The base class of repairs, with everything that a repair needs to import besides its edits."""

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
"""Headings in the docstring of every repair, in this order; ``autotrainer explain`` shows it."""


class Risk(StrEnum):
    """The risk of a repair.

    ``safe``: correct by the evidence, or harmless. ``unsafe``: has to prove itself by its score. ``advice``: only
    suggested, never applied.
    """

    SAFE = "safe"
    UNSAFE = "unsafe"
    ADVICE = "advice"


@dataclass(frozen=True, slots=True)
class Proposal:
    """One concrete application of a repair.

    Attributes:
        repair: Name of the repair.
        edits: The changes.
        effect: Prior probability that it repairs the problem, in [0, 1].
        cost: Work of a training with the edits, relative to one without.
    """

    repair: str
    edits: tuple[Edit, ...]
    effect: float
    cost: float = 1.0

    @property
    def change(self) -> int:
        """How far it changes the training, from 0 to 3; see ``max_change`` of `autotrainer.fit`."""
        return max(edit.change for edit in self.edits)


@dataclass(frozen=True, slots=True)
class Dimension:
    """One dimension of the search space: a setting that a search may vary without evidence.

    Attributes:
        repair: Name of the repair whose setting it is.
        options: Edits for each value; numeric values in ascending or descending order.
    """

    repair: str
    options: tuple[tuple[Edit, ...], ...]


class Repair(ABC):
    """Proposes edits that repair problems. It has no state, and no access to the framework or the model.

    Its docstring is its page, with the headings of `DOC_SECTIONS`.
    """

    name: ClassVar[str]
    """Name of the repair, in snake case."""
    fixes: ClassVar[Mapping[str, float]]
    """Problems that it can repair, each with the prior probability that it does, in [0, 1]."""
    risk: ClassVar[Risk] = Risk.UNSAFE
    """See `Risk`."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """`FACTS` of the context that `propose` reads; they are measured only if a repair needs them."""

    @abstractmethod
    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        """Propose edits against a finding, best first.

        Args:
            finding: A finding of one of the problems in `fixes`.
            context: The current training, with the active edits.
            targets: Summary of the targets.

        Returns:
            Proposals; none if the repair does not apply.
        """

    def dimension(self, context: TaskContext) -> Dimension | None:
        """Return the setting of this repair that a search may vary without evidence; None for most repairs.

        Args:
            context: The original training.
        """
        return None

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        """Propose small changes of this repair's setting around a training that works; none for most repairs.

        They are tried with ``until="budget"`` of `autotrainer.fit`, and again around each training that is better.

        Args:
            context: The training to improve, with the active edits.

        Returns:
            Proposals, whose effect is the probability that they improve it.
        """
        return ()

    @classmethod
    def documentation(cls) -> str:
        """Return the repair's page: its docstring without indentation."""
        return inspect.getdoc(cls) or ""
