"""How far the original training runs once its cause is proven: paused, beaten, or run to its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import autotrainer
from autotrainer import registry
from autotrainer.adapter.spec import Evaluation, TrainingSpec
from autotrainer.edits import Edit, ScaleInputs, SetLearningRate
from autotrainer.records.data import ArrayData
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import LossInfo, OptimizerInfo, TargetSummary, TaskContext
from autotrainer.repair import Proposal, Repair, Risk
from autotrainer.rule import Rule
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.metrics import Score
from autotrainer.scoring.scorer import Scorer
from autotrainer.search.baseline import is_ahead, race_epochs
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from autotrainer.training import trial
from autotrainer.training.trial import Trial

ROWS = 400
DATA = (np.arange(2.0 * ROWS).reshape(ROWS, 2), np.tile([0, 1], ROWS // 2))
EPOCHS = 100


class Proven(Rule):
    """Reports an error from the first epoch's end on; it passes where the training says so."""

    problem, code, needs = "bad_data", "AT501", frozenset({"epochs"})

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        bad, passes = history.epochs("bad")[1], history.epochs("passes")[1]
        if not bad.size or not bad[-1] or (passes.size and len(bad) > passes[-1] > 0):
            return None
        return self.finding(Severity.ERROR, 0.95, "the data are bad", {"value": bad[-1]})


class Scale(Repair):
    name, risk = "scale_inputs", Risk.SAFE
    fixes: ClassVar[dict[str, float]] = {"bad_data": 0.9}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield Proposal(self.name, (ScaleInputs(),), 0.9)


class Rate(Repair):
    name, risk = "scale_learning_rate", Risk.UNSAFE
    fixes: ClassVar[dict[str, float]] = {"bad_data": 0.5}

    def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
        yield Proposal(self.name, (SetLearningRate(0.01),), 0.5)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(registry, "rules", lambda: (Proven,))
    monkeypatch.setattr(registry, "repairs", lambda: (Scale, Rate))
    monkeypatch.setattr(registry, "backends", lambda: (backend,))


def _fit(
    original: float,
    repaired: float,
    passes: float = 0.0,
    operations: float = 1.0,
    early: bool = False,
    trainings: list[tuple[Edit, ...]] | None = None,
    **options: Any,
) -> autotrainer.Result:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        cured = ScaleInputs in map(type, edits)
        if trainings is not None:
            trainings.append(edits)
        values = {"bad": float(not cured), "passes": passes}
        return Outcome(repaired if cured else original, values, operations if cured else 1.0, early=early)

    options = {"epochs": EPOCHS, "budget": 3.0, "progress": False, **options}
    return autotrainer.fit(FakeModel(script), DATA, DATA, **options)


def test_original_never_goes_on_if_no_training_can_be_better() -> None:
    result = _fit(0.5, 1.0)
    assert (result.status, result.baseline_ended, len(result.attempts)) == ("repaired", "beaten", 1)
    assert result.baseline_epochs == EPOCHS // 50
    assert result.cost == pytest.approx(1.02, abs=0.01)
    assert [f.problem for f in result.findings] == ["bad_data"]
    report = result.report()
    assert "not trained to its end, but ended after 2 of 100 epochs" in " ".join(str(report).split())
    assert "not trained to its end" in report.to_html()


def test_original_goes_on_in_doubt_until_it_is_clearly_behind() -> None:
    result = _fit(0.5, 0.8)
    attempt, original = result.attempts
    assert (attempt.plan.edits, original.plan.edits) == ((ScaleInputs(),), ())
    assert (original.verdict, original.epochs) == ("original", EPOCHS // 2)
    assert (result.status, result.baseline_ended, result.baseline_score) == ("repaired", "beaten", 0.5)
    assert original.cost == pytest.approx(0.5, abs=0.01)
    assert "again from its start, after it had been paused" in str(result.report())


@pytest.mark.parametrize("original", [0.8, 0.81, 0.95])
def test_original_that_is_no_worse_at_its_end_is_returned(original: float) -> None:
    result = _fit(original, 0.8)
    assert (result.status, result.plan, result.score) == ("unrepaired", None, original)
    assert (result.baseline_ended, result.baseline_score) == ("", original)
    assert len(result.history["score"]) == EPOCHS


def test_training_whose_error_passes_is_healthy() -> None:
    result = _fit(0.9, 0.95, passes=50.0)
    assert (result.status, result.plan, result.score) == ("healthy", None, 0.9)
    assert [a.verdict for a in result.attempts] == ["", "original"]


@pytest.mark.parametrize("forbid", [(), "scale_learning_rate"])
@pytest.mark.parametrize(("original", "repaired", "best"), [(0.5, 0.8, 0.8), (0.5, 1.0, 1.0), (0.9, 0.8, 0.9)])
def test_search_of_the_whole_budget_goes_on_after_a_pause(
    original: float, repaired: float, best: float, forbid: str
) -> None:
    result = _fit(original, repaired, until="budget", forbid=forbid)
    assert result.status == ("repaired" if best == repaired else "unrepaired")
    assert result.score == best
    assert result.baseline_ended == ("beaten" if best == repaired else "")


@pytest.mark.parametrize(
    "options",
    [
        {"repair": False},
        {"budget": 1.9},
        {"budget": timedelta(hours=1)},
        {"forbid": "scale_inputs"},
        {"ignore": "bad_data"},
    ],
)
def test_original_runs_to_its_end(options: dict[str, Any]) -> None:
    result = _fit(0.9, 1.0, **options)
    assert (result.baseline_ended, result.baseline_epochs, result.baseline_score) == ("", EPOCHS, 0.9)


def test_interrupt_of_the_repaired_training_returns_the_paused_original() -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        return Outcome(0.5, {"bad": float(not edits)}, raises={5: KeyboardInterrupt()} if edits else {})

    result = autotrainer.fit(FakeModel(script), DATA, DATA, epochs=EPOCHS, test_data=DATA, progress=False)
    assert (result.status, result.stopped_by, result.plan) == ("unrepaired", "interrupt", None)
    assert (result.baseline_epochs, len(result.history["score"])) == (2, 2)
    assert result.test_score is not None


def test_interrupt_of_the_original_that_goes_on_returns_the_best() -> None:
    trainings: list[tuple[Edit, ...]] = []

    def script(edits: tuple[Edit, ...]) -> Outcome:
        trainings.append(edits)
        again = trainings == [(), (ScaleInputs(),), ()]
        raises: dict[int, BaseException] = {60: KeyboardInterrupt()} if again else {}
        return Outcome(0.8 if edits else 0.79, {"bad": float(not edits)}, raises=raises)

    result = autotrainer.fit(FakeModel(script), DATA, DATA, epochs=EPOCHS, budget=3.0, progress=False)
    assert result.stopped_by == "interrupt"
    assert [a.verdict for a in result.attempts] == ["", "original"]
    assert result.score == max(0.79, 0.8 if result.plan else 0.79)


@pytest.mark.parametrize(("operations", "budget"), [(1.9, 2.5), (1.5, 2.1), (1.15, 2.1)])
def test_original_keeps_its_share_of_the_budget(operations: float, budget: float) -> None:
    result = _fit(0.95, 0.8, operations=operations, budget=budget, forbid="scale_learning_rate")
    assert (result.status, result.plan, result.score, result.baseline_epochs) == ("unrepaired", None, 0.95, EPOCHS)
    assert result.cost <= budget


@pytest.mark.parametrize("repaired", [0.8, 1.0])
def test_paused_original_is_tested_without_another_training(repaired: float) -> None:
    with_test, without = list[tuple[Edit, ...]](), list[tuple[Edit, ...]]()
    result = _fit(0.5, repaired, trainings=with_test, test_data=DATA)
    _fit(0.5, repaired, trainings=without)
    assert with_test == without
    assert result.baseline_test_score is not None


def test_interrupt_right_after_the_pause_returns_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(trial, "finalize_score", interrupted)
    trainings: list[tuple[Edit, ...]] = []
    result = _fit(0.5, 0.8, trainings=trainings)
    assert (result.stopped_by, result.plan, result.baseline_ended) == ("interrupt", None, "paused")
    assert trainings == [()]
    assert "the search was interrupted" in " ".join(str(result.report()).split())


def test_interrupt_before_the_error_shows_again_returns_the_repaired_training(monkeypatch: pytest.MonkeyPatch) -> None:
    class Later(Proven):
        def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
            return super().check(history, context) if len(history.epochs("bad")[1]) >= 5 else None

    monkeypatch.setattr(registry, "rules", lambda: (Later,))
    trainings: list[tuple[Edit, ...]] = []

    def script(edits: tuple[Edit, ...]) -> Outcome:
        trainings.append(edits)
        raises: dict[int, BaseException] = {3: KeyboardInterrupt()} if len(trainings) == 3 else {}
        return Outcome(0.95 if edits else 0.7, {"bad": float(not edits)}, raises=raises, early=True)

    result = autotrainer.fit(FakeModel(script), DATA, DATA, epochs=EPOCHS, budget=3.0, progress=False)
    assert (result.status, result.score, result.stopped_by) == ("repaired", 0.95, "interrupt")


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("repaired", [1.0, 0.8, 0.3])
def test_resumed_result_equals_uninterrupted_result(repaired: float, early: bool, tmp_path: Path) -> None:
    def plain(result: autotrainer.Result) -> dict[str, Any]:
        return {name: getattr(result, name) for name in result.__slots__ if name not in ("model", "optimizer")}

    options: dict[str, Any] = {"test_data": DATA, "log_dir": tmp_path}
    whole = plain(_fit(0.5, repaired, early=early, **options))
    (file,) = tmp_path.glob("fit-*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    for kept in range(1, len(lines) + 1):
        file.write_text("".join(lines[:kept]))
        assert plain(_fit(0.5, repaired, early=early, resume=True, **options)) == whole


# -- at equal work ----------------------------------------------------------------------------------------------------

CONTEXT = TaskContext(
    loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), optimizer=OptimizerInfo("sgd", 0.1)
)


def _score(scorer: Scorer, accuracy: float) -> Score:
    targets = DATA[1]
    order = np.random.default_rng(0).permutation(ROWS)  # wrong predictions of both classes
    outputs = np.where(order < accuracy * ROWS, targets, 1 - targets).astype(float)
    return scorer.score(Evaluation(outputs, targets, 0.5))


@pytest.mark.parametrize(
    ("at_half", "final", "original", "before", "ahead"),
    [
        (0.9, 0.95, 0.5, None, True),  # the original has learned nothing
        (0.53, 0.95, 0.5, None, False),  # nor has the repaired training, clearly
        (0.9, 0.52, 0.5, None, False),  # which has become worse since
        (0.9, 0.95, 0.7, None, False),  # the original learns: how fast is unknown
        (0.9, 0.95, 0.7, 0.7, True),  # it has stopped to learn
        (0.9, 0.95, 0.7, 0.58, False),  # it might catch up, at the speed since then
        (0.9, 0.95, 0.7, 0.4, False),  # it would catch up
    ],
)
def test_lead_at_equal_work(at_half: float, final: float, original: float, before: float | None, ahead: bool) -> None:
    scorer = Scorer(MetricSelection("auto"), CONTEXT, ArrayData(*DATA))
    scores = {value: _score(scorer, value) for value in (at_half, final, original, before or 0.5)}
    attempt = Trial(TrainingSpec(8, 0), None, scores[final], (), CONTEXT, {}, 0, cut_short=False)
    attempt = replace(attempt, scores={4 * ROWS: scores[at_half]})
    earlier = None if before is None else (2 * ROWS, scores[before])
    now = 4 * ROWS, scores[original]
    assert is_ahead(attempt, now, earlier, 8 * ROWS, scorer) == ahead
    assert not is_ahead(attempt, (3 * ROWS, scores[original]), earlier, 8 * ROWS, scorer), "no score at equal work"
    assert not is_ahead(replace(attempt, cut_short=True), now, earlier, 8 * ROWS, scorer)


def test_races_are_within_the_training() -> None:
    for epochs in (1, 2, 3, 30, 1000):
        assert all(1 <= epoch <= epochs for epoch in race_epochs(epochs))
