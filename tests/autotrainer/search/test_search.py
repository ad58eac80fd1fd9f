"""The search: which step is tried on top of which training, and which training is the best."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autotrainer.adapter.spec import Evaluation, Support, SupportLevel, TrainingSpec
from autotrainer.edits import ClipGradients, Edit, ScaleInputs, SetLearningRate, SetMomentum, SwapOptimizer
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext
from autotrainer.repair import Dimension
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.planner import Planner, Step
from autotrainer.search.search import Search
from autotrainer.search.seed_repeats import Verdict
from autotrainer.training.budget import Budget
from autotrainer.training.trial import Trial

TARGETS = np.tile([0.0, 1.0], 50)
CONTEXT = TaskContext(
    loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), optimizer=OptimizerInfo("sgd", 0.1)
)
_ADAM = SwapOptimizer("adam", 0.001)


class ListedPlanner(Planner):
    """Plans the steps that a table lists for each problem."""

    table: dict[str, list[Step]]

    def proven(self, findings: object, context: object, targets: object) -> Step | None:
        return None

    def steps(self, findings: object, context: object, targets: object, before: object = ()) -> list[Step]:
        return [step for finding in findings for step in self.table.get(finding.problem, [])]  # type: ignore[attr-defined]


def _step(repair: str, *edits: Edit) -> Step:
    return Step((repair,), ("p",), edits)


@pytest.fixture
def scorer() -> Scorer:
    return Scorer(MetricSelection("accuracy"), CONTEXT, ArrayData(np.zeros((100, 1)), TARGETS))


def _trial(scorer: Scorer, accuracy: float, *problems: str, edits: tuple[Edit, ...] = ()) -> Trial:
    outputs = np.where(np.arange(100) < 100 * accuracy, TARGETS, 1 - TARGETS)
    findings = tuple(Finding(p, "AT000", Severity.ERROR, 1.0, p) for p in problems)
    score = scorer.score(Evaluation(outputs, TARGETS, 0.0))
    return Trial(
        TrainingSpec(1, 0, edits),
        None,
        score,
        findings,
        CONTEXT,
        {},
        1,
        False,
        above_trivial=scorer.above_trivial(score),
    )


def _search(scorer: Scorer, baseline: Trial, **table: list[Step]) -> Search:
    planner = ListedPlanner((), lambda edit: Support(SupportLevel.REBUILD))
    planner.table = table
    assert scorer.metric is not None
    return Search(planner, scorer.metric, TargetSummary(), baseline, Budget())


def _try(search: Search, scorer: Scorer, accuracy: float, *problems: str) -> tuple[Edit, ...]:
    candidate = search.next()
    assert candidate is not None
    search.add(candidate, _trial(scorer, accuracy, *problems, edits=candidate.spec.edits))
    return candidate.spec.edits


def test_continues_with_the_setting_that_helped(scorer: Scorer) -> None:
    rate, clip = SetLearningRate, ClipGradients("norm", 1.0)
    search = _search(
        scorer,
        _trial(scorer, 0.3, "bad"),
        bad=[_step("rate", rate(0.01))],
        dead=[_step("clip", clip), _step("rate", rate(0.1)), _step("rate", rate(0.001))],
    )
    assert _try(search, scorer, 0.6, "dead") == (rate(0.01),)
    assert _try(search, scorer, 0.6, "dead") == (rate(0.001),), "0.1 is the baseline's own rate"
    assert _try(search, scorer, 0.6, "dead") == (rate(0.01), clip)


def test_baseline_rate_is_new_for_another_optimizer(scorer: Scorer) -> None:
    swap = SwapOptimizer("adam", 0.001)
    steps = [_step("swap", swap), _step("rate", SetLearningRate(0.1))]
    search = _search(scorer, _trial(scorer, 0.3, "bad"), bad=steps)
    assert _try(search, scorer, 0.6, "bad") == (swap,)
    assert _try(search, scorer, 0.6, "bad") == (swap, SetLearningRate(0.1))


def test_trivial_score_is_not_repaired(scorer: Scorer) -> None:
    search = _search(
        scorer, _trial(scorer, 0.1, "bad"), bad=[_step("a", ScaleInputs()), _step("b", ClipGradients("norm", 1))]
    )
    _try(search, scorer, 0.5)
    assert search.best is not search.baseline
    assert not search.repaired
    _try(search, scorer, 0.9)
    assert search.repaired


def test_clean_training_wins_at_equal_score(scorer: Scorer) -> None:
    search = _search(
        scorer, _trial(scorer, 0.3, "bad"), bad=[_step("a", ScaleInputs()), _step("b", ClipGradients("norm", 1))]
    )
    _try(search, scorer, 0.9, "odd")
    first = search.best
    assert not search.repaired
    _try(search, scorer, 0.9)
    assert search.best is not first
    assert search.repaired


@pytest.mark.parametrize(
    ("stuck", "left", "follow", "third"),
    [
        (True, ("hidden",), ClipGradients("norm", 1), (ScaleInputs(), ClipGradients("norm", 1))),
        (False, ("hidden",), ClipGradients("norm", 1), (_ADAM,)),  # its score tells what it is worth
        (True, ("p", "hidden"), ClipGradients("norm", 1), (_ADAM,)),  # nothing is removed
        (True, ("hidden",), ScaleInputs((1.0,), (2.0,)), (_ADAM,)),  # the step went too far
    ],
)
def test_hidden_fault_that_a_step_uncovers_is_repaired_soon(
    scorer: Scorer, stuck: bool, left: tuple[str, ...], follow: Edit, third: tuple[Edit, ...]
) -> None:
    search = _search(
        scorer,
        _trial(scorer, 0.3, "p"),
        p=[_step("a", ScaleInputs()), _step("b", SetMomentum(0.5)), _step("c", _ADAM)],
        hidden=[_step("d", follow)],
    )
    candidate = search.next()
    assert candidate is not None
    search.add(candidate, replace(_trial(scorer, 0.2, *left, edits=candidate.spec.edits), stuck=stuck))
    assert _try(search, scorer, 0.2, "p") == (SetMomentum(0.5),)
    assert _try(search, scorer, 0.2, "p") == third


def test_ends_when_no_step_is_left(scorer: Scorer) -> None:
    search = _search(scorer, _trial(scorer, 0.3, "bad"), bad=[_step("a", ScaleInputs())])
    assert _try(search, scorer, 0.3, "bad") == (ScaleInputs(),)
    assert search.next() is None
    assert search.best is search.baseline


class VaryingPlanner(ListedPlanner):
    """Varies rate and clipping too."""

    def dimensions(self, findings: object, context: object) -> list[Dimension]:
        rates = tuple((SetLearningRate(10.0**-power),) for power in range(7))
        clips = tuple((ClipGradients("norm", limit),) for limit in (0.1, 1.0, 10.0))
        return [Dimension("scale_learning_rate", rates), Dimension("clip_gradients", clips)]


def _halving(
    scorer: Scorer, kind: type[ListedPlanner], budget: Budget, *steps: Step, resumable: bool = False
) -> Search:
    """Return a search after a baseline of nine epochs and 100 operations with a score of 0.3."""
    budget.measure(100)
    budget.spend(100)
    baseline = _trial(scorer, 0.3, "bad")
    baseline.spec = TrainingSpec(9, 0)
    planner = kind((), lambda edit: Support(SupportLevel.REBUILD))
    planner.table = {"bad": list(steps)}
    assert scorer.metric is not None
    return Search(planner, scorer.metric, TargetSummary(), baseline, budget, resumable=resumable)


def test_settings_are_searched_by_halving_after_evidence_failed(scorer: Scorer) -> None:
    budget = Budget(8.0)
    steps = _step("a", ScaleInputs()), _step("b", SwapOptimizer("adam", 1e-3))
    search = _halving(scorer, VaryingPlanner, budget, *steps)
    lengths: list[int | None] = []
    while budget.left > 1 and (candidate := search.next()) is not None:
        lengths.append(candidate.epochs)
        rate = next((e.value for e in candidate.spec.edits if isinstance(e, SetLearningRate)), 1.0)
        trial = _trial(scorer, 0.9 if rate == 1e-3 else 0.3, "bad", edits=candidate.spec.edits)
        trial.spec, trial.work = candidate.spec, 100 * (candidate.epochs or 9) // 9
        budget.spend(trial.work)
        assert search.add(candidate, trial) is False or candidate.epochs is None, "a short training never wins"
    assert lengths[:2] == [None, None], "steps by evidence come first"
    assert lengths[2:11] == [1] * 9
    assert lengths[11:14] == [3] * 3
    assert lengths[14] is None
    assert any(isinstance(e, SetLearningRate) and e.value == 1e-3 for e in search.best.spec.edits)
    assert budget.left >= 0


def test_only_paused_trainings_that_may_continue_are_kept(scorer: Scorer) -> None:
    class Paused:
        def __init__(self) -> None:
            self.open = True

        def close(self) -> None:
            self.open = False

    search = _halving(scorer, VaryingPlanner, Budget(8.0), resumable=True)
    paused: list[Paused] = []
    lengths: list[tuple[int | None, bool]] = []
    while len(lengths) < 14 and (candidate := search.next()) is not None:
        lengths.append((candidate.epochs, candidate.shorter is not None))
        trial = _trial(scorer, 0.2 + 0.01 * len(lengths), "bad", edits=candidate.spec.edits)
        trial.spec = candidate.spec
        if candidate.shorter is not None:
            assert candidate.shorter.paused is not None
            assert candidate.shorter.paused.open  # type: ignore[attr-defined]
            candidate.shorter.close()  # the runner continues it
        if candidate.epochs is not None:
            paused.append(Paused())
            trial.resumable, trial.paused = True, paused[-1]  # type: ignore[assignment]
        search.add(candidate, trial)
        assert sum(one.open for one in paused) <= 3
    assert any(one.open for one in paused)
    assert lengths == [(1, False)] * 9 + [(3, True)] * 3 + [(None, True)] + [(1, False)]
    search.close()
    assert not any(one.open for one in paused)


def test_settings_search_ends_after_repeated_failures(scorer: Scorer) -> None:
    class WidePlanner(ListedPlanner):
        def dimensions(self, findings: object, context: object) -> list[Dimension]:
            rates = tuple((SetLearningRate(10.0**-power),) for power in range(30))
            return [Dimension("scale_learning_rate", rates), Dimension("add_momentum", ((SetMomentum(0.9),),))]

    def searched(stuck: bool) -> list[int | None]:
        search = _halving(scorer, WidePlanner, Budget(100.0))
        lengths = []
        while len(lengths) < 50 and (candidate := search.next()) is not None:
            lengths.append(candidate.epochs)
            trial = _trial(scorer, 0.2, "bad", edits=candidate.spec.edits)
            trial.spec, trial.stuck = candidate.spec, stuck
            search.add(candidate, trial)
        return lengths

    assert searched(stuck=True) == [1] * 27, "three halvings without a promotion"
    assert {1, 3, None} == set(searched(stuck=False))


def _repeating(scorer: Scorer, baseline: Trial, *steps: Step) -> Search:
    planner = ListedPlanner((), lambda edit: Support(SupportLevel.REBUILD))
    planner.table = {"bad": list(steps)}
    assert scorer.metric is not None
    budget = Budget(math.inf)
    budget.measure(1)
    return Search(planner, scorer.metric, TargetSummary(), baseline, budget, repeats=True)


@pytest.mark.parametrize(("repeated", "best"), [(0.36, "a"), (0.3, "")])
def test_doubtful_gain_is_re_evaluated_before_it_counts(scorer: Scorer, repeated: float, best: str) -> None:
    baseline = _trial(scorer, 0.3, "bad")
    search = _repeating(scorer, baseline, _step("a", ScaleInputs()))
    first = search.next()
    assert first is not None
    trial = _trial(scorer, 0.37, edits=first.spec.edits)
    trial.above_trivial = True
    assert search.add(first, trial)
    assert not search.repaired, "a gain of seven rows of a hundred"
    second = search.next()
    assert second is not None
    assert (second.repeat_of is not None, second.repairs, second.spec) == (True, ("a",), replace(first.spec, seed=1))
    verdict = search.add_repeat(second, _trial(scorer, repeated, edits=first.spec.edits))
    assert verdict is (Verdict.HOLDS if best else Verdict.REFUTED)
    assert search.repaired == bool(best)
    assert search.best is (trial if best else baseline)
    if not best:
        assert search.next() is None


def test_refuted_best_gives_way_to_next_best(scorer: Scorer) -> None:
    search = _repeating(scorer, _trial(scorer, 0.3, "bad"), _step("a", ScaleInputs()), _step("b", SetMomentum(0.9)))
    first = search.next()
    assert first is not None
    other = _trial(scorer, 0.35, "bad", edits=first.spec.edits)
    assert search.add(first, other)
    second = search.next()
    assert second is not None
    assert second.repeat_of is None, "while errors are left, steps come first"
    better = _trial(scorer, 0.38, edits=second.spec.edits)
    better.above_trivial = True
    assert search.add(second, better)
    third = search.next()
    assert third is not None
    assert (third.repeat_of is not None, third.repairs) == (True, second.repairs)
    assert search.add_repeat(third, None) is Verdict.REFUTED
    assert search.best is other
    begun = []
    while (candidate := search.next()) is not None:
        begun.append(candidate.repeat_of is not None)
        if candidate.repeat_of is not None:
            search.add_repeat(candidate, _trial(scorer, 0.35, "bad"))
        else:
            search.add(candidate, _trial(scorer, 0.2, edits=candidate.spec.edits))
    assert begun[-1], "the remaining doubtful gain is re-evaluated at the end"
    assert search.best is other


def _live_search(scorer: Scorer, *steps: Step) -> Search:
    live = (SetLearningRate, ClipGradients)
    planner = ListedPlanner(
        (), lambda edit: Support(SupportLevel.LIVE if isinstance(edit, live) else SupportLevel.REBUILD)
    )
    planner.table = {"bad": list(steps)}
    baseline = _trial(scorer, 0.3, "bad")
    assert scorer.metric is not None
    budget = Budget()
    budget.measure(100)
    return Search(planner, scorer.metric, TargetSummary(), baseline, budget, healthy_epochs=3)


def test_live_edits_begin_at_healthy_point(scorer: Scorer) -> None:
    rate, clip = SetLearningRate(0.01), ClipGradients("norm", 1.0)
    search = _live_search(scorer, _step("rate", rate), _step("clip", clip), _step("scale", ScaleInputs()))
    begun = []
    for accuracy in (0.6, 0.7, 0.2, 0.2):
        candidate = search.next()
        assert candidate is not None
        begun.append((candidate.repairs, candidate.spec.start))
        assert candidate.plan("pytorch").start == candidate.spec.start
        search.add(candidate, _trial(scorer, accuracy, "bad", edits=candidate.spec.edits))
    assert begun[:2] == [(("rate",), 3), (("rate", "clip"), 3)]
    assert begun[2] == (("rate", "clip", "scale"), 0), "scaling inputs is not a live edit"


@pytest.mark.parametrize(("share", "begun"), [(1.0, [("rate", 3), ("rate", 0), ("clip", 0)]), (0.3, None), (0.0, None)])
def test_healthy_point_is_abandoned_after_wasted_work(
    scorer: Scorer, share: float, begun: list[tuple[str, int]] | None
) -> None:
    search = _live_search(scorer, _step("rate", SetLearningRate(0.01)), _step("clip", ClipGradients("norm", 1.0)))
    tried = []
    while (candidate := search.next()) is not None:
        tried += [(candidate.repairs[0], candidate.spec.start)] if len(candidate.repairs) == 1 else []
        if not share:
            search.fail(candidate)
            continue
        trial = _trial(scorer, 0.3, edits=candidate.spec.edits)
        trial.work = round(100 * share)
        search.add(candidate, trial)
    assert tried == (begun or [("rate", 3), ("clip", 3), ("rate", 0), ("clip", 0)])
