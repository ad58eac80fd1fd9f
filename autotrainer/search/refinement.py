"""What may still improve a training that works: refined settings, compositions, and plans with one edit less."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import Edit, ExtendTraining, SetLearningRate, SwapOptimizer
from autotrainer.records.task import TaskContext
from autotrainer.repair import Proposal
from autotrainer.search.candidate import Node
from autotrainer.search.planner import Planner, Step
from autotrainer.training.trial import Trial

__all__ = ["Refinement", "refinements", "smaller_plans", "still_improves"]

_COMPOSED, _DROPPED = 0.35, 0.3
"""Probabilities that an edit which helped alone also helps on top of the best, and that an edit is not needed."""
_LEAST_RISE = 0.02
"""Smallest rise of the means from the third to the last quarter of a curve that goes on, as a share of its range: that
of an exponential approach with a time constant of a sixth of the training, which is complete to 99.8% at its end."""


@dataclass(frozen=True, slots=True)
class Refinement:
    """A plan to try next.

    Attributes:
        step: All its edits, on top of the baseline.
        cost: Work of such a training, relative to the one that is refined; that of a smaller plan or a composition
            by its epochs.
        value: Probability that it is a gain, for its cost.
    """

    step: Step
    cost: float
    value: float


def refinements(best: Node, helpful: Sequence[Node], root: Node, planner: Planner, sign: int) -> list[Refinement]:
    """Return what to try around the best training, the best chance for its cost first.

    * Its settings, one at a time: the learning rate twice and half as high, in the direction first that its curve
      suggests; more epochs if the curve still rises; then what else the repairs propose (batch size, width, …). As
      each gain is refined in turn, a rate goes on in the direction that helped.
    * Its plan with the edits of another training that helped.
    * Its plan without one of its edits.

    Args:
        best: The best training.
        helpful: Other trainings that are better than the baseline, the best first.
        root: The baseline training.
        planner: Proposes refinements of settings.
        sign: 1 where a higher score is better, else -1.
    """
    rises = still_improves(best.trial, sign)
    proposals = planner.refinements(_context(best.trial))
    rates = [p for p in proposals if any(isinstance(edit, SetLearningRate) for edit in p.edits)]
    others = [p for p in proposals if p not in rates]
    if not rises:
        rates.reverse()
        others = [p for p in others if not any(isinstance(edit, ExtendTraining) for edit in p.edits)]
    refined = [_refined(best, root, proposal) for proposal in (*rates, *others)]
    plans = [*refined, *_compositions(best, helpful, root), *smaller_plans(best, root)]
    return sorted(plans, key=lambda refinement: -refinement.value)


def smaller_plans(best: Node, root: Node) -> Iterator[Refinement]:
    """Yield the plan of a training without one of its edits, the last ones first: they were added for the least gain.

    Args:
        best: The training.
        root: The baseline training, whose edits stay.
    """
    edits = _edits(best, root)
    for dropped in reversed(edits):
        remaining = tuple(edit for edit in edits if edit != dropped)
        if remaining:
            yield _priced(_step(remaining, best.repair_of, best), best, root, _DROPPED)


def still_improves(trial: Trial, sign: int) -> bool:
    """Return whether score or validation loss still improved in the last quarter of a training.

    By more than the standard error of the epochs, and by 2% of the whole way at least.

    Args:
        trial: The training.
        sign: 1 where a higher score is better, else -1.
    """
    score, loss = (np.array(trial.history.get(name, ()), dtype=float) for name in ("score", "val_loss"))
    return _rises(sign * score) or _rises(-loss)


def _rises(curve: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> bool:
    curve = curve[np.isfinite(curve)]
    size = len(curve) // 4 or 1
    if len(curve) < 2:
        return False
    last, before = curve[-size:], curve[-2 * size : -size]
    gain = float(last.mean() - before.mean())
    error = math.sqrt((float(last.var(ddof=1)) + float(before.var(ddof=1))) / size) if size > 1 else 0.0
    return gain > max(error, _LEAST_RISE * float(np.ptp(curve)), 0.0)


def _refined(best: Node, root: Node, proposal: Proposal) -> Refinement:
    spec = TrainingSpec(1, 0, _edits(best, root)).with_edits(proposal.edits)
    edits, repair_of = _folded(spec.edits, {**best.repair_of, **dict.fromkeys(proposal.edits, proposal.repair)})
    return Refinement(_step(edits, repair_of, best), proposal.cost, proposal.effect / max(1.0, proposal.cost))


def _folded(edits: tuple[Edit, ...], repair_of: Mapping[Edit, str]) -> tuple[tuple[Edit, ...], Mapping[Edit, str]]:
    """Return edits in which the rate of a new optimizer belongs to it, so that a refined plan is no larger."""
    rate = next((edit for edit in edits if isinstance(edit, SetLearningRate)), None)
    swap = next((edit for edit in edits if isinstance(edit, SwapOptimizer)), None)
    if rate is None or swap is None:
        return edits, repair_of
    new = replace(swap, learning_rate=rate.value)
    folded = tuple(new if edit is swap else edit for edit in edits if edit is not rate)
    return folded, {**repair_of, new: repair_of.get(swap, "")}


def _compositions(best: Node, helpful: Sequence[Node], root: Node) -> Iterator[Refinement]:
    edits = _edits(best, root)
    for other in helpful:
        new = tuple(edit for edit in _edits(other, root) if edit not in edits)
        both = TrainingSpec(1, 0, edits).with_edits(new).edits
        if other is not best and new and len(both) == len(edits) + len(new):  # none replaces another
            problems = tuple(dict.fromkeys((*best.problems, *other.problems)))
            step = _step(both, {**other.repair_of, **best.repair_of}, best)
            yield _priced(replace(step, problems=problems), best, root, _COMPOSED)


def _priced(step: Step, best: Node, root: Node, probability: float) -> Refinement:
    """Return a plan with its cost by its epochs."""
    cost = root.trial.spec.with_edits(step.edits).epochs / best.trial.spec.epochs
    return Refinement(step, cost, probability / max(1.0, cost))


def _edits(node: Node, root: Node) -> tuple[Edit, ...]:
    return tuple(edit for edit in node.trial.spec.edits if edit not in root.trial.spec.edits)


def _step(edits: tuple[Edit, ...], repair_of: Mapping[Edit, str], node: Node) -> Step:
    sources = tuple(repair_of.get(edit) or next(iter(node.repairs), "") for edit in edits)
    return Step(tuple(dict.fromkeys(sources)), node.problems, edits, sources)


def _context(trial: Trial) -> TaskContext:
    """Return the context of a training with the length and the initial rate of its recipe."""
    context, optimizer = trial.context, trial.context.optimizer
    for edit in trial.spec.edits:
        if isinstance(edit, SwapOptimizer):
            optimizer = replace(optimizer, name=edit.name, learning_rate=edit.learning_rate)
        elif isinstance(edit, SetLearningRate):
            optimizer = replace(optimizer, learning_rate=edit.value)
    return replace(context, optimizer=optimizer, planned_epochs=trial.spec.epochs)
