"""Which repairs to try, in what order: findings in, steps out. Independent of models and trainings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from autotrainer import plugins
from autotrainer.adapter.spec import Support, SupportLevel
from autotrainer.edits import Edit, ResizeOutputLayer, StandardStep
from autotrainer.edits.base import is_number, shorten
from autotrainer.errors import ConfigError, nearest
from autotrainer.output import logger
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.repair import Dimension, Proposal, Repair, Risk
from autotrainer.search.experience import Experience, variant

__all__ = ["STRATEGIES", "Planner", "Step", "as_errors", "unprepared"]

STRATEGIES = ("balance", "structure", "efficiency")
"""Orders of a problem's repairs, as in AUTOTRAINER (ICSE 2021, section 3.3): largest effect, then simplest; smallest
change of the model first; cheapest first."""

_PROVEN = 0.5
"""Minimum effect of a safe repair that counts as proven by the evidence."""
_ALONGSIDE = ("abnormal_data",)
"""Problems whose safe repairs are proven along with those of errors even where they are warnings."""
_LAST = ("reinitialize", "swap_activation")
"""Repairs that discard weights: last, unless the evidence names the layers."""
_ROOT_LEAD = 2
"""Positions by which a finding's repairs are ahead of those of the next finding."""


def unprepared(_: Edit) -> Support:
    """Return that nothing is supported: the `Planner.supports` of a training that is not prepared yet."""
    return Support(SupportLevel.NONE, "the training is not prepared")


@dataclass(frozen=True, slots=True)
class Step:
    """Edits to try together, with the repairs that propose them and the problems that they answer.

    Attributes:
        repairs: Names of the repairs.
        problems: Names of the problems.
        edits: The edits.
        sources: Name of the repair of each edit; empty if all of them are of the first one.
        cost: Work of a training with the edits, relative to one without.
    """

    repairs: tuple[str, ...]
    problems: tuple[str, ...]
    edits: tuple[Edit, ...]
    sources: tuple[str, ...] = ()
    cost: float = 1.0

    @property
    def repair_of(self) -> dict[Edit, str]:
        """The name of the repair of each edit."""
        return dict(zip(self.edits, self.sources or self.repairs[:1] * len(self.edits), strict=True))


@dataclass
class Planner:
    """Turns the findings of one training into steps.

    Args:
        repairs: The repairs in force.
        supports: Returns whether a training with an edit can be run.
        strategy: One of `STRATEGIES`.
        max_change: Largest change of the model: 0 training settings only, 1 also weights and activations, 2 also
            inserted layers, 3 anything.
        extra_memory: Whether edits may take more memory.
        forbid: Names of repairs never to use.
        experience: Corrects the effects that repairs declare, where the order depends on them; None to trust these.

    Attributes:
        supports_together: Returns whether a training with all of some edits can be run, of which one decides what else
            is possible: another width of the output, or the framework's own step; None if there is no such edit.
        fixed_outputs: Whether a function of the user's scores outputs, whose shape must then stay.
        notes: Why repairs were left out, by the name of the repair.

    Raises:
        ConfigError: If an option is unknown.
    """

    repairs: Sequence[type[Repair]]
    supports: Callable[[Edit], Support]
    strategy: str = "balance"
    max_change: int = 3
    extra_memory: bool = True
    forbid: Iterable[str] = ()
    experience: Experience | None = None
    supports_together: Callable[[Sequence[Edit]], Support] | None = None
    fixed_outputs: bool = False
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.strategy, str) or self.strategy not in STRATEGIES:
            hint = nearest(self.strategy if isinstance(self.strategy, str) else "", STRATEGIES)
            raise ConfigError(f"unknown strategy {shorten(self.strategy)}: {hint}")
        if not is_number(self.max_change, int) or self.max_change not in (0, 1, 2, 3):
            raise ConfigError(
                f"max_change must be 0 (training settings only), 1 (also weights and activations), 2 (also inserted "
                f"layers) or 3 (anything), not {shorten(self.max_change)}"
            )
        self.forbid = frozenset([self.forbid] if isinstance(self.forbid, str) else self.forbid)
        names = [repair.name for repair in self.repairs]
        for name in self.forbid:
            if name not in names:
                raise ConfigError(f"forbid names an unknown repair {shorten(name)}: {nearest(name, names)}")

    @property
    def needs(self) -> frozenset[str]:
        """Names of the facts that the repairs in force read."""
        return frozenset[str]().union(*(repair.needs for repair in self.repairs if repair.name not in self.forbid))

    @property
    def _repairable(self) -> frozenset[str]:
        return frozenset(problem for repair in self.repairs for problem in repair.fixes)

    def proven(self, findings: Sequence[Finding], context: TaskContext, targets: TargetSummary) -> Step | None:
        """Combine the safe repairs that the evidence proves, the best one of each finding, into one step.

        Repairs of unscaled inputs, which are safe, are taken along: an attempt is made in any case.

        Args:
            findings: Ranked findings of a training.
            context: Its context.
            targets: Summary of its targets.

        Returns:
            The step, or None if nothing is proven.
        """
        edits: list[Edit] = []
        repairs: list[str] = []
        problems: list[str] = []
        sources: list[str] = []
        errors = actionable(findings, self._repairable)
        # Inputs on another scale may hide behind an output that is wrong anyway: a warning, and harmful without it.
        alongside = [f for f in findings if f.problem in _ALONGSIDE and f.severity is Severity.WARNING]
        for finding in (*errors, *(f for f in alongside if f not in errors)):
            if not edits and finding not in errors:
                continue
            for proposal in self._proposals(finding, context, targets, only=Risk.SAFE):
                new = [edit for edit in proposal.edits if edit not in edits]
                if proposal.effect < _PROVEN or {type(edit) for edit in new} & {type(edit) for edit in edits}:
                    continue
                edits += new
                sources += [proposal.repair] * len(new)
                repairs += [proposal.repair] if new and proposal.repair not in repairs else []
                problems += [finding.problem] if finding.problem not in problems else []
                break
        return Step(tuple(repairs), tuple(problems), tuple(edits), tuple(sources)) if edits else None

    def steps(
        self, findings: Sequence[Finding], context: TaskContext, targets: TargetSummary, before: Sequence[Edit] = ()
    ) -> list[Step]:
        """Return single repairs to try, best first: those of roots before those of their consequences.

        Args:
            findings: Ranked findings of a training.
            context: Its context.
            targets: Summary of its targets.
            before: The edits that this training has.
        """
        ranked: list[tuple[int, int, Step]] = []
        proposed: set[tuple[Edit, ...]] = set()
        for rank, finding in enumerate(actionable(findings, self._repairable)):
            place = 0
            for proposal in self._proposals(finding, context, targets, before=before):
                if proposal.edits in proposed:
                    continue
                proposed.add(proposal.edits)
                step = Step((proposal.repair,), (finding.problem,), proposal.edits, cost=proposal.cost)
                ranked.append((place + _ROOT_LEAD * rank, rank, step))
                place += 1
        return [step for _, _, step in sorted(ranked, key=lambda entry: entry[:2])]

    def refinements(self, context: TaskContext) -> list[Proposal]:
        """Return small changes of a training that works, the best chance for its cost first.

        Args:
            context: Context of that training.
        """
        proposals: list[Proposal] = []
        for repair in self.repairs:
            if repair.risk is not Risk.ADVICE and repair.name not in self.forbid:
                with self._isolated(repair):
                    proposed = plugins.check_proposals(repair().refine(context), repair)
                    proposals += [p for p in proposed if p.edits and not self._refusal(p.edits)]
        return sorted(proposals, key=lambda p: -p.effect / max(1.0, p.cost))

    def dimensions(self, findings: Sequence[Finding] | None, context: TaskContext) -> list[Dimension]:
        """Return the dimensions of a search without evidence, with the options that are allowed.

        Args:
            findings: Ranked findings of the baseline training: if none of them is actionable, there are no dimensions;
                None for dimensions whatever it has.
            context: Context of the baseline training.
        """
        dimensions: list[Dimension] = []
        if findings is not None and not actionable(findings, self._repairable):
            return dimensions
        for repair in self.repairs:
            dimension = None
            if repair.name not in self.forbid:
                with self._isolated(repair):
                    dimension = plugins.check_dimension(repair().dimension(context), repair)
            if dimension is not None:
                options = tuple(edits for edits in dimension.options if not self._refusal(edits))
                dimensions += [Dimension(repair.name, options)] if options else []
        return dimensions

    def _proposals(
        self,
        finding: Finding,
        context: TaskContext,
        targets: TargetSummary,
        only: Risk | None = None,
        before: Sequence[Edit] = (),
    ) -> list[Proposal]:
        """Return the allowed proposals for one finding, in the strategy's order."""
        proposals: list[Proposal] = []
        for repair in self.repairs:
            if finding.problem not in repair.fixes or repair.name in self.forbid:
                continue
            if repair.risk is Risk.ADVICE or only not in (None, repair.risk):
                continue
            proposed: list[Proposal] = []
            with self._isolated(repair):
                proposed = plugins.check_proposals(repair().propose(finding, context, targets), repair)
            proposals += [p for p in proposed if self._allows(p, before)]
        places = {name: place for place, name in enumerate(finding.repairs)}

        def order(proposal: Proposal) -> tuple[float, ...]:
            late = proposal.repair in _LAST and not finding.layers
            effect = self._effect(finding, proposal, context)
            key = {
                "balance": (-effect, proposal.change, proposal.cost),
                "structure": (proposal.change, -effect, proposal.cost),
                "efficiency": (proposal.cost, -effect, proposal.change),
            }[self.strategy]
            return (late, *key, places.get(proposal.repair, len(places)))

        return sorted(proposals, key=order)

    def _effect(self, finding: Finding, proposal: Proposal, context: TaskContext) -> float:
        if self.experience is None:
            return proposal.effect
        name = variant(proposal.repair, proposal.edits, context.optimizer.learning_rate)
        return self.experience.effect(finding.problem, name, proposal.effect)

    @contextmanager
    def _isolated(self, repair: type[Repair]) -> Iterator[None]:
        """Return a context in which a repair may fail: that is reported once, and the others are used."""
        try:
            yield
        except BaseException as error:
            if not plugins.is_contained(error, repair):
                raise
            reason = plugins.describe_error(error)
            if repair.name not in self.notes:
                logger.warning("%srepair %s failed and is left out: %s", plugins.origin(repair), repair.name, reason)
            self.notes[repair.name] = f"it failed: {reason}"

    def _allows(self, proposal: Proposal, before: Sequence[Edit]) -> bool:
        reason = self._refusal(proposal.edits, before)
        if reason:
            self.notes.setdefault(proposal.repair, reason)
        return bool(proposal.edits) and not reason

    def _refusal(self, edits: Sequence[Edit], before: Sequence[Edit] = ()) -> str:
        """Return why edits are not allowed in a training that has others before them, or an empty string."""
        if max((edit.change for edit in edits), default=0) > self.max_change:
            return f"max_change={self.max_change} rules it out"
        if not self.extra_memory and any(edit.memory for edit in edits):
            return "extra_memory=False rules it out"
        if self.fixed_outputs and any(isinstance(edit, ResizeOutputLayer) for edit in edits):
            return "the metric is a function, which may not fit outputs of another width"
        together = self.supports_together
        if together is not None and any(isinstance(edit, ResizeOutputLayer) for edit in edits):
            return together(edits).reason  # the others must fit the new output
        if together is not None and any(isinstance(edit, StandardStep) for edit in before):
            return together((*before, *edits)).reason  # it allows what a step of the user's does not
        for edit in edits:
            support = self.supports(edit)
            if not support:
                return support.reason
        return ""


def actionable(findings: Sequence[Finding], repairable: Collection[str]) -> list[Finding]:
    """Return the findings to act on, in their order: errors, and what explains them.

    A consequence of an error that no repair fixes, such as non-finite data, is left to the user along with its root:
    it can't be repaired on its own.

    Args:
        findings: Ranked findings of one training.
        repairable: Problems that some repair fixes.
    """
    by_problem = {f.problem: f for f in findings}
    problems: set[str] = set()
    for finding in findings:
        chain = _causes(finding, by_problem)
        fixable = all(f.problem in repairable or f.severity is not Severity.ERROR for f in chain)
        if finding.severity is Severity.ERROR and fixable:
            problems.update(f.problem for f in chain)
    return [f for f in findings if f.problem in problems and f.severity is not Severity.INFO]


def as_errors(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings with warnings as errors: what to act on in a training without an error."""
    return [replace(f, severity=Severity.ERROR) if f.severity is Severity.WARNING else f for f in findings]


def _causes(finding: Finding, by_problem: Mapping[str, Finding]) -> list[Finding]:
    """Return a finding and its chain of causes, the root last."""
    chain = [finding]
    while (root := by_problem.get(chain[-1].caused_by or "")) is not None and root not in chain:
        chain.append(root)
    return chain
