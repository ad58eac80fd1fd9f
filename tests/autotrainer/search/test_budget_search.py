"""`fit` with ``until="budget"``: what is tried after a repair, when it ends, and which training is the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import autotrainer
from autotrainer import registry
from autotrainer.adapter.spec import TrainingSpec
from autotrainer.edits import ClipGradients, Edit, ExtendTraining, ScaleInputs, SetLearningRate, SetMomentum
from autotrainer.errors import ConfigError
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.repair import Dimension, Proposal, Repair, Risk
from autotrainer.rule import Rule
from autotrainer.search.candidate import Node
from autotrainer.search.planner import Planner, unprepared
from autotrainer.search.refinement import refinements, smaller_plans
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from autotrainer.training.trial import Trial

ROWS = 200
CLIP, MOMENTUM, SCALE = ClipGradients("norm", 1.0), SetMomentum(0.9), ScaleInputs()


class Bad(Rule):
    """Reports its problem if the last epoch has a value ``bad``."""

    problem = "bad_rate"
    code = "AT408"
    needs = frozenset({"epochs"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        values = history.epochs("bad")[1]
        return self.finding(Severity.ERROR, 0.9, "it is bad", {}) if values.size and values[-1] else None


class Rate(Repair):
    """Proposes a rate of 0.01, and refines the present one."""

    name = "scale_learning_rate"
    fixes: ClassVar[dict[str, float]] = {"bad_rate": 0.6}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield Proposal(self.name, (SetLearningRate(0.01),), 0.6)

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        for factor in (2, 0.5):
            yield Proposal(self.name, (SetLearningRate(context.optimizer.learning_rate * factor),), 0.4)


class Longer(Repair):
    """Doubles the length of a training that works."""

    name = "extend_training"
    fixes: ClassVar[dict[str, float]] = {}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        return ()

    def refine(self, context: TaskContext) -> Iterable[Proposal]:
        yield Proposal(self.name, (ExtendTraining(2 * (context.planned_epochs or 1)),), 0.7, cost=2.0)


def _listed(label: str, *edits: Edit, kind: Risk = Risk.UNSAFE, share: float = 0.5) -> type[Repair]:
    """Return a repair that proposes each of the edits, and varies them in a search without evidence."""

    class Listed(Repair):
        name = label
        fixes: ClassVar[dict[str, float]] = {"bad_rate": share}
        risk = kind

        def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
            yield from (Proposal(label, (edit,), share) for edit in edits)

        def dimension(self, context: TaskContext) -> Dimension:
            return Dimension(label, tuple((edit,) for edit in edits))

    return Listed


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(registry, "rules", lambda: (Bad,))
    monkeypatch.setattr(registry, "backends", lambda: (backend,))


@pytest.fixture
def repairs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets the repairs in force."""
    return lambda *kinds: monkeypatch.setattr(registry, "repairs", lambda: kinds)


def _fit(script: Callable[[tuple[Edit, ...]], Outcome], **options: Any) -> autotrainer.Result:
    data = (np.arange(2.0 * ROWS).reshape(ROWS, 2), np.tile([0, 1], ROWS // 2))
    options = {"epochs": 4, "budget": 20.0, "progress": False, "until": "budget"} | options
    return autotrainer.fit(FakeModel(script), data, data, **options)


def _rate(edits: tuple[Edit, ...], default: float = 0.1) -> float:
    return next((edit.value for edit in reversed(edits) if isinstance(edit, SetLearningRate)), default)


def _tried(result: autotrainer.Result) -> list[tuple[Edit, ...]]:
    return [attempt.plan.edits for attempt in result.attempts]


def _best_at(peak: float) -> Callable[[tuple[Edit, ...]], Outcome]:
    """Return a script without error below a rate of 0.1: each doubling away from the best rate costs 8 points."""

    def script(edits: tuple[Edit, ...]) -> Outcome:
        rate = _rate(edits)
        return Outcome(max(0.0, 0.95 - 0.08 * abs(np.log2(rate / peak))) if rate < 0.1 else 0.3, {"bad": rate >= 0.1})

    return script


def test_rate_is_refined_in_the_direction_that_helps(repairs: Callable[..., None]) -> None:
    repairs(Rate)
    result = _fit(_best_at(0.04))
    assert [edit.value for (edit,) in _tried(result)] == [0.01, 0.005, 0.02, 0.04, 0.08]  # type: ignore[attr-defined]
    assert (result.status, result.stopped_by, result.score) == ("repaired", "done", 0.95)
    assert result.plan is not None
    assert (result.plan.edits, result.plan.repairs) == ((SetLearningRate(0.04),), ("scale_learning_rate",))
    healthy = _fit(_best_at(0.04), until="healthy")
    assert (_tried(healthy), healthy.status) == ([(SetLearningRate(0.01),)], "repaired")


def test_training_without_error_is_improved(repairs: Callable[..., None]) -> None:
    repairs(Rate, _listed("clip_gradients", CLIP))
    script = lambda edits: Outcome(0.9 if _rate(edits) == 0.05 else 0.7)  # noqa: E731
    result = _fit(script)
    assert (result.status, result.score, result.baseline_score, result.findings) == ("repaired", 0.9, 0.7, [])
    assert result.plan is not None
    assert result.plan.edits == (SetLearningRate(0.05),)
    assert "To fix" not in str(result.plan)
    assert (CLIP,) in [edits[-1:] for edits in _tried(result)], "settings are searched without evidence"
    assert _fit(script, until="healthy").attempts == []
    equal = _fit(lambda edits: Outcome(0.705 if edits else 0.7), budget=4.0)
    assert (equal.status, equal.plan) == ("healthy", None)
    assert equal.attempts
    assert "no attempt was better" in str(equal.report())


@pytest.mark.parametrize(("accuracy", "ends"), [(1.0, True), (0.99, True), (0.97, False)])
def test_search_ends_at_the_ceiling_of_the_metric(repairs: Callable[..., None], accuracy: float, ends: bool) -> None:
    repairs(Rate)
    result = _fit(lambda edits: Outcome(accuracy))
    assert (result.status, result.stopped_by) == ("healthy", "done")
    assert (result.attempts == []) == ends


def test_edits_that_are_not_needed_are_dropped(repairs: Callable[..., None]) -> None:
    repairs(*(_listed(name, edit, kind=Risk.SAFE) for name, edit in zip("abc", (CLIP, MOMENTUM, SCALE), strict=True)))
    result = _fit(lambda edits: Outcome(1.0 if MOMENTUM in edits else 0.3, {"bad": MOMENTUM not in edits}))
    assert result.plan is not None
    assert (result.plan.edits, result.plan.repairs) == ((MOMENTUM,), ("b",))
    first = _fit(
        lambda edits: Outcome(1.0 if MOMENTUM in edits else 0.3, {"bad": MOMENTUM not in edits}), until="healthy"
    )
    assert first.plan is not None
    assert len(first.plan.edits) > 1, "the proven repairs come as one step"


def test_edits_that_helped_alone_are_composed(repairs: Callable[..., None]) -> None:
    repairs(_listed("a", CLIP), _listed("b", MOMENTUM))

    def script(edits: tuple[Edit, ...]) -> Outcome:
        score = 0.5 + 0.2 * (CLIP in edits) + 0.2 * (MOMENTUM in edits)
        return Outcome(score, {"bad": not edits})

    result = _fit(script, budget=8.0)
    assert (result.status, result.score) == ("repaired", 0.9)
    assert result.plan is not None
    assert set(result.plan.repairs) == {"a", "b"}


def test_plans_are_priced_by_their_own_epochs() -> None:
    context, extend = TaskContext(), ExtendTraining(16)

    def node(*edits: Edit) -> Node:
        spec = TrainingSpec(4, 0).with_edits(edits)
        return Node(Trial(spec, None, None, (), context, {}, 1, cut_short=False), repairs=("a",))

    root, longer, shorter = node(), node(CLIP, extend), node(CLIP)
    smaller = {plan.step.edits: plan.cost for plan in smaller_plans(longer, root)}
    assert smaller == {(CLIP,): 0.25, (extend,): 1.0}
    planner = Planner((), unprepared)
    composed = {
        plan.step.edits: (plan.cost, plan.value)
        for best, other in ((shorter, node(extend)), (longer, node(MOMENTUM)))
        for plan in refinements(best, [other], root, planner, 1)
        if len(plan.step.edits) > len(best.trial.spec.edits)
    }
    (cost, value), (same_length, higher) = composed[CLIP, extend], composed[CLIP, extend, MOMENTUM]
    assert (cost, same_length) == (4.0, 1.0)
    assert value == higher / 4


def test_rest_of_the_budget_goes_to_trainings_shorter_than_the_best(repairs: Callable[..., None]) -> None:
    extend = ExtendTraining(4)
    repairs(_listed("extend_training", extend, kind=Risk.SAFE, share=0.9), _listed("a", CLIP, MOMENTUM, SCALE))
    script = lambda edits: Outcome(0.9 if extend in edits else 0.5, {"bad": extend not in edits})  # noqa: E731
    result = _fit(script, epochs=1, budget=7.5)
    assert _tried(result) == [(extend,), (CLIP,), (MOMENTUM,)]
    assert (result.status, result.stopped_by, result.cost) == ("repaired", "budget", 7.0)


def test_smallest_of_equal_plans_is_the_result(repairs: Callable[..., None]) -> None:
    repairs(_listed("a", CLIP), _listed("b", MOMENTUM), _listed("c", SCALE))
    result = _fit(lambda edits: Outcome(0.80 + 0.005 * len(edits) if edits else 0.3, {"bad": not edits}), budget=6.0)
    assert max(attempt.score or 0 for attempt in result.attempts) > result.score
    assert result.plan is not None
    assert len(result.plan.edits) == 1


def test_error_that_remains_counts_less_than_the_score(repairs: Callable[..., None]) -> None:
    repairs(_listed("a", CLIP), _listed("b", MOMENTUM))

    def script(edits: tuple[Edit, ...]) -> Outcome:
        return Outcome({(CLIP,): 0.6, (MOMENTUM,): 0.9}.get(edits, 0.3), {"bad": edits != (CLIP,)})

    result = _fit(script, epochs=1)
    assert (result.status, result.score) == ("improved", 0.9)
    assert _fit(script, epochs=1, until="healthy").status == "repaired"


def test_budget_is_never_exceeded_and_results_are_reproducible(repairs: Callable[..., None]) -> None:
    repairs(Rate, Longer, _listed("a", CLIP, SCALE), _listed("b", MOMENTUM))
    for budget in (2.0, 3.7, 6.0):
        first, second = (_fit(_best_at(0.04), budget=budget) for _ in range(2))
        assert first.cost <= budget
        assert first.stopped_by == "budget"
        assert (_tried(first), first.cost, first.plan) == (_tried(second), second.cost, second.plan)


def test_resumed_search_reaches_the_same_result(repairs: Callable[..., None], tmp_path: Path) -> None:
    repairs(Rate, _listed("a", CLIP, SCALE), _listed("b", MOMENTUM))
    whole = _fit(_best_at(0.04), budget=8.0, log_dir=tmp_path)
    (journal,) = tmp_path.glob("fit*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    for kept in (3, 5):
        journal.write_bytes(b"".join(lines[:kept]))
        resumed = _fit(_best_at(0.04), budget=8.0, log_dir=tmp_path, resume=True)
        assert (_tried(resumed), resumed.plan, resumed.cost) == (_tried(whole), whole.plan, whole.cost)
    with pytest.raises(ConfigError, match="until"):
        _fit(_best_at(0.04), budget=8.0, log_dir=tmp_path, resume=True, until="healthy")


@pytest.mark.parametrize("until", ["best", None, 3])
def test_unknown_until_is_a_config_error(until: Any) -> None:
    with pytest.raises(ConfigError, match=r"until must be one of healthy, budget"):
        _fit(lambda edits: Outcome(0.9), until=until)


def test_suspect_training_without_a_finding_is_searched(repairs: Callable[..., None]) -> None:
    """No rule reports anything, but the score is that of a constant prediction."""
    repairs(_listed("a", CLIP, MOMENTUM))
    result = _fit(lambda edits: Outcome(0.9 if MOMENTUM in edits else 0.5), epochs=1, until="healthy")
    assert (result.status, result.score) == ("repaired", 0.9)
    assert _fit(lambda edits: Outcome(0.5), until="healthy").status == "unrepaired"
