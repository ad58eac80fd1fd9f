"""`fit` with a scripted backend: verdicts, search, budget, exceptions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import autotrainer
from autotrainer import registry
from autotrainer.edits import (
    AddDropout,
    ClipGradients,
    Edit,
    InsertNormalization,
    Reinitialize,
    ScaleInputs,
    SetLearningRate,
    SetMomentum,
    SetOutputActivation,
    SwapActivation,
)
from autotrainer.errors import BudgetError, ConfigError, DataError, InputError
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import TargetSummary, TaskContext
from autotrainer.repair import Proposal, Repair, Risk
from autotrainer.rule import Rule
from autotrainer.testing import FakeBackend, FakeModel, Outcome

Script = Callable[[tuple[Edit, ...]], Outcome]

ROWS = 200


def _rule(name: str, number: str, severity: Severity = Severity.ERROR, causes: tuple[str, ...] = ()) -> type[Rule]:
    """Return a rule that reports its problem if the last epoch has a value of that name."""

    class Scripted(Rule):
        problem = name
        code = number
        needs = frozenset({"epochs"})

        def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
            values = history.epochs(name)[1]
            if not values.size or not values[-1]:
                return None
            return self.finding(severity, 0.9, f"{name} it is", {"value": values[-1]})

    Scripted.causes = causes
    return Scripted


def _repair(label: str, problems: dict[str, float], *edits: Edit, kind: Risk = Risk.UNSAFE) -> type[Repair]:
    """Return a repair that proposes each of the edits."""

    class Scripted(Repair):
        name = label
        fixes: ClassVar[dict[str, float]] = problems
        risk = kind

        def propose(self, finding: Finding, context: TaskContext, targets: TargetSummary) -> Iterable[Proposal]:
            for rank, edit in enumerate(edits):
                yield Proposal(label, (edit,), problems[finding.problem] * 0.9**rank)

    return Scripted


RATE, CLIP, MOMENTUM = SetLearningRate(0.01), ClipGradients("norm", 1.0), SetMomentum(0.9)
SCALE, OUTPUT = ScaleInputs(), SetOutputActivation("sigmoid")
NORM, DROP = InsertNormalization(("hidden",)), AddDropout(("hidden",), 0.5)
SWAP, DRAW = SwapActivation(("hidden",), "relu"), Reinitialize(("hidden",), "he_uniform")

RULES = (
    _rule("bad_data", "AT501"),
    _rule("bad_output", "AT401"),
    _rule("bad_rate", "AT408"),
    _rule("not_learning", "AT303", causes=("bad_rate", "odd")),
    _rule("nonfinite", "AT801"),
    _rule("odd", "AT999", Severity.WARNING),
)
REPAIRS = (
    _repair("scale_inputs", {"bad_data": 0.9, "bad_rate": 0.2}, SCALE, kind=Risk.SAFE),
    _repair("fix_output_activation", {"bad_output": 0.9}, OUTPUT, kind=Risk.SAFE),
    _repair(
        "scale_learning_rate", {"bad_rate": 0.6, "not_learning": 0.3, "nonfinite": 0.6}, RATE, SetLearningRate(1.0)
    ),
    _repair("clip_gradients", {"bad_rate": 0.5, "nonfinite": 0.5}, CLIP),
    _repair("add_momentum", {"bad_rate": 0.4, "odd": 0.3}, MOMENTUM),
    _repair("swap_activation", {"bad_rate": 0.95}, SWAP),
    _repair("reinitialize", {"bad_rate": 0.99}, DRAW),
    _repair("insert_normalization", {"bad_rate": 0.55}, NORM),
    _repair("tell", {"bad_rate": 1.0}, DROP, kind=Risk.ADVICE),
)


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(registry, "rules", lambda: RULES)
    monkeypatch.setattr(registry, "repairs", lambda: REPAIRS)
    monkeypatch.setattr(registry, "backends", lambda: (backend,))


def _data(rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(2.0 * rows).reshape(rows, 2), np.tile([0, 1], rows // 2)


def _fit(script: Script, **options: Any) -> autotrainer.Result:
    refuses = options.pop("refuses", ())
    options = {"epochs": 4, "budget": 6.0, "progress": False, "validation_data": _data()} | options
    return autotrainer.fit(FakeModel(script, refuses), options.pop("train", _data()), **options)


def _script(*faults: str, cured_by: dict[str, Edit], broken: float = 0.5, good: float = 1.0, **more: Any) -> Script:
    """Return a script with faults, each cured by an edit; the score is good once all are cured."""

    def script(edits: tuple[Edit, ...]) -> Outcome:
        left = [fault for fault in faults if cured_by.get(fault) not in edits]
        return Outcome(broken if left else good, {fault: float(fault in left) for fault in faults}, **more)

    return script


def test_a_function_follows_the_progress() -> None:
    calls: list[tuple[str, int, int]] = []

    def progress(title: str, epochs: int, planned: int, score: float) -> None:
        calls.append((title, epochs, planned))
        assert 0 <= score <= 1

    script = _script("bad_rate", cured_by={"bad_rate": RATE})
    result = _fit(script, progress=progress)
    assert [call for call in calls if call[0] == "baseline training"][:2] == [
        ("baseline training", 1, 4), ("baseline training", 2, 4),
    ]  # fmt: skip
    assert ("attempt 1", 4, 4) in calls

    def fails(*_: object) -> None:
        raise RuntimeError

    again = _fit(script, progress=fails)
    assert (again.status, again.score) == (result.status, result.score)


def test_healthy_training_is_not_repaired() -> None:
    result = _fit(lambda edits: Outcome(0.9, {"odd": 1.0}))
    assert (result.status, result.stopped_by, result.plan, result.attempts) == ("healthy", "done", None, [])
    assert result.score == result.baseline_score == 0.9
    assert result.cost == 1.0
    assert result.model.epochs == 4
    assert result.history["score"] == [0.0, 0.9, 0.9, 0.9]
    assert {"loss", "val_loss", "val_accuracy", "score"} <= set(result.history)


@pytest.mark.parametrize(
    ("budget", "status"),
    [(1e-6, "unrepaired"), (0.1, "unrepaired"), (0.45, "unrepaired"), (0.8, "healthy"), (1.0, "healthy")],
)
def test_short_baseline_is_never_healthy(budget: float, status: str) -> None:
    result = _fit(lambda edits: Outcome(0.9), budget=budget)
    assert (result.status, result.attempts) == (status, [])
    assert result.stopped_by == ("budget" if budget < 1 else "done")
    assert ("could be judged healthy" in str(result.report())) == (status == "unrepaired")


def test_repaired_result_has_scores_and_plan() -> None:
    result = _fit(_script("bad_rate", cured_by={"bad_rate": RATE}), test_data=_data(100))
    assert (result.status, result.stopped_by) == ("repaired", "done")
    assert (result.score, result.baseline_score) == (1.0, 0.5)
    assert (result.test_score, result.baseline_test_score) == (1.0, 0.5)
    assert result.plan is not None
    assert (result.plan.edits, result.plan.repairs, result.plan.problems) == (
        (RATE,),
        ("scale_learning_rate",),
        ("bad_rate",),
    )
    assert result.model.edits == (RATE,)
    assert [f.problem for f in result.findings] == ["bad_rate"]
    assert result.attempts[-1].plan is result.plan
    assert result.cost == sum(a.cost for a in result.attempts) + 1
    assert result.metric == "accuracy"


@pytest.mark.parametrize(
    ("strategy", "first"),
    [("balance", RATE), ("structure", RATE), ("efficiency", RATE)],
)
def test_reinitialization_is_tried_last(strategy: Any, first: Edit) -> None:
    result = _fit(_script("bad_rate", cured_by={}), strategy=strategy, budget=20.0)
    tried = [a.plan.edits for a in result.attempts if len(a.plan.edits) == 1]
    assert tried[0] == (first,)
    assert set(tried[:6]).isdisjoint({(SWAP,), (DRAW,)})
    assert tried.index((SWAP,)) > tried.index((SCALE,))


def test_strategies_order_repairs_differently() -> None:
    orders = {
        strategy: [a.plan.edits for a in _fit(_script("bad_rate", cured_by={}), strategy=strategy, budget=5.0).attempts]
        for strategy in ("balance", "structure")
    }
    assert orders["balance"][:4] == [(RATE,), (NORM,), (SetLearningRate(1.0),), (CLIP,)]
    assert orders["structure"][:4] == [(RATE,), (SetLearningRate(1.0),), (CLIP,), (MOMENTUM,)]


def test_safe_repairs_are_combined_first() -> None:
    script = _script(
        "bad_data", "bad_output", "bad_rate", cured_by={"bad_data": SCALE, "bad_output": OUTPUT, "bad_rate": CLIP}
    )
    result = _fit(script, budget=8.0)
    first, second = [attempt for attempt in result.attempts if attempt.plan.edits][:2]
    assert set(first.plan.edits) == {SCALE, OUTPUT}
    assert set(second.plan.edits) > {SCALE, OUTPUT}, "the proven repairs stay although they were not enough"
    assert result.status == "repaired"
    assert result.plan is not None
    assert set(result.plan.edits) == {SCALE, OUTPUT, CLIP}
    assert set(result.plan.problems) == {"bad_data", "bad_output", "bad_rate"}


def test_repairs_build_on_the_best_attempt() -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        if RATE not in edits:
            return Outcome(0.5, {"bad_rate": 1.0})
        return Outcome(1.0 if OUTPUT in edits else 0.8, {"bad_output": float(OUTPUT not in edits)})

    result = _fit(script)
    assert [a.plan.edits for a in result.attempts] == [(RATE,), (RATE, OUTPUT)]
    assert result.status == "repaired"


def test_status_is_improved_if_errors_remain() -> None:
    result = _fit(lambda edits: Outcome(0.8 if RATE in edits else 0.5, {"bad_rate": 1.0}), budget=3.0)
    assert (result.status, result.stopped_by, result.score) == ("improved", "budget", 0.8)


def test_gain_within_noise_does_not_count() -> None:
    result = _fit(lambda edits: Outcome(0.52 if edits else 0.5, {"bad_rate": float(not edits)}), budget=3.0)
    assert (result.status, result.plan, result.score) == ("unrepaired", None, 0.5)
    assert result.model.edits == ()
    assert len(result.attempts) == 2


def test_two_faults_that_need_a_combined_repair() -> None:
    result = _fit(_script("bad_rate", "odd", cured_by={"bad_rate": CLIP, "odd": MOMENTUM}), budget=80.0)
    assert result.status == "repaired"
    assert result.plan is not None
    assert {CLIP, MOMENTUM} <= set(result.plan.edits)


def test_warning_that_causes_an_error_is_repaired() -> None:
    script = _script("not_learning", "odd", cured_by={"not_learning": MOMENTUM, "odd": MOMENTUM})
    result = _fit(script)
    assert result.findings[0].problem == "odd"
    assert result.attempts[0].plan.edits == (MOMENTUM,)
    assert result.status == "repaired"


@pytest.mark.parametrize("problem", ["nonfinite", "not_learning"])
def test_stuck_training_ends_early(problem: str) -> None:
    script = _script(problem, cured_by={problem: RATE}, nonfinite=False)
    stuck = _fit(script, epochs=40)
    assert stuck.status == "repaired"
    if problem == "not_learning":
        assert stuck.cost < 1.2
    whole = _fit(script, epochs=40, repair=False)
    assert (whole.cost, whole.status, len(whole.history["loss"])) == (1.0, "unrepaired", 40)


def test_nonfinite_predictions_end_early_and_never_win() -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        broken = RATE not in edits
        return Outcome(1.0, {"nonfinite": float(broken)}, nonfinite=broken)

    result = _fit(script, epochs=40)
    assert (result.status, result.baseline_score, result.score) == ("repaired", 0.0, 1.0)
    assert result.cost < 1.2
    worse = _fit(lambda edits: Outcome(0.1, {"bad_rate": 1.0}, nonfinite=bool(edits)), budget=3.0)
    assert worse.status == "unrepaired"


def test_edits_are_tried_once_and_results_are_reproducible() -> None:
    script = _script("bad_rate", "bad_output", cured_by={})
    runs = [_fit(script, budget=40.0) for _ in range(2)]
    tried = [[tuple(sorted(map(repr, a.plan.edits))) for a in run.attempts] for run in runs]
    assert tried[0] == tried[1]
    assert len(set(tried[0])) == len(tried[0]) > 20
    assert runs[0].cost == runs[1].cost


@pytest.mark.parametrize(
    ("options", "never"),
    [
        ({"max_change": 0}, (NORM, SWAP, DRAW, SCALE)),
        ({"max_change": 1}, (NORM, SCALE)),
        ({"extra_memory": False}, (NORM, MOMENTUM)),
        ({"forbid": "clip_gradients"}, (CLIP,)),
        ({"forbid": ["clip_gradients", "scale_learning_rate"]}, (CLIP, RATE)),
        ({"refuses": (ClipGradients,)}, (CLIP,)),
    ],
)
def test_options_exclude_repairs(options: dict[str, Any], never: tuple[Edit, ...]) -> None:
    result = _fit(_script("bad_rate", cured_by={}), budget=30.0, **options)
    tried = {edit for attempt in result.attempts for edit in attempt.plan.edits}
    assert tried
    assert tried.isdisjoint({*never, DROP})
    if "forbid" not in options:
        assert result.notes


def test_advice_is_never_attempted() -> None:
    result = _fit(_script("not_learning", cured_by={}), forbid="scale_learning_rate")
    assert (result.status, result.stopped_by, result.attempts) == ("unrepaired", "done", [])


def test_exception_fails_an_attempt() -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        if edits == (RATE,):
            return Outcome(raises={1: MemoryError("no room")})
        return Outcome(0.5 if not edits else 1.0, {"bad_rate": float(not edits)})

    result = _fit(script)
    assert result.status == "repaired"
    failed = result.attempts[0]
    assert (failed.score, failed.error) == (None, "MemoryError: no room")
    assert failed.cost > 0


def test_exception_in_the_baseline_is_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="mine"):
        _fit(lambda edits: Outcome(raises={1: ZeroDivisionError("mine")}))


@pytest.mark.parametrize("epoch", [0, 2])
def test_interrupted_baseline_is_returned(epoch: int) -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        return Outcome(0.5, {"bad_rate": 1.0}, raises={epoch: KeyboardInterrupt()})

    result = _fit(script)
    assert (result.status, result.stopped_by, result.model.epochs) == ("unrepaired", "interrupt", epoch)
    assert len(result.history.get("loss", [])) == epoch
    assert np.isfinite(result.score)


def test_interrupt_between_trainings_returns_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("autotrainer.search.search.Search.next", interrupted)
    result = _fit(_script("bad_rate", cured_by={}), test_data=_data(100))
    assert (result.status, result.stopped_by, result.plan) == ("unrepaired", "interrupt", None)
    assert result.test_score == result.baseline_test_score == 0.5


def test_interrupted_attempt_returns_the_best() -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        if len(edits) > 1:
            return Outcome(raises={1: KeyboardInterrupt()})
        return Outcome(0.8 if edits else 0.5, {"bad_rate": 1.0})

    result = _fit(script)
    assert (result.status, result.stopped_by, result.score) == ("improved", "interrupt", 0.8)
    assert result.attempts[-1].error == "interrupted by the user"


class Doubtful:
    """A script whose first attempt gains six of 200 rows; the later trainings have the listed scores."""

    def __init__(self, *after: float | BaseException) -> None:
        self.after = list(after)
        self.begun = 0

    def __call__(self, edits: tuple[Edit, ...]) -> Outcome:
        self.begun += 1
        if not edits:
            return Outcome(0.56, {"bad_rate": 1.0})
        score = 0.59 if self.begun == 2 else self.after.pop(0)
        return Outcome(raises={1: score}) if isinstance(score, BaseException) else Outcome(score)


@pytest.mark.parametrize(
    ("again", "status", "stopped"),
    [
        (0.59, "repaired", "done"),
        (0.56, "unrepaired", "budget"),
        (ValueError("diverged"), "unrepaired", "budget"),
        (KeyboardInterrupt(), "repaired", "interrupt"),
    ],
)
def test_doubtful_gain_is_repeated_with_another_seed(again: float | BaseException, status: str, stopped: str) -> None:
    script = Doubtful(again, *([0.5] * 40))
    result = _fit(script)
    first, second = result.attempts[:2]
    assert (first.score, first.verdict, second.plan.edits) == (0.59, "", first.plan.edits)
    assert (result.status, result.stopped_by, result.doubtful) == (status, stopped, stopped == "interrupt")
    kept = status == "repaired"
    assert result.score == (0.59 if kept else 0.56)
    assert (result.plan is not None) == bool(result.model.edits) == kept
    assert script.begun == 1 + len(result.attempts), "no model is trained again"
    assert result.cost == pytest.approx(1.0 + sum(attempt.cost for attempt in result.attempts))
    failed = isinstance(again, BaseException)
    assert (second.score is None, second.error is not None) == (failed, failed)
    assert second.verdict == ("open" if stopped == "interrupt" else "holds" if kept else "refuted")


def test_doubtful_gain_without_budget_is_reported() -> None:
    result = _fit(Doubtful(), budget=2.9)
    assert (result.status, result.doubtful, len(result.attempts)) == ("repaired", True, 1)
    assert "may be due to chance" in str(result.report())
    assert not _fit(_script("bad_rate", cured_by={"bad_rate": RATE})).doubtful, "a gain of half of the rows"


@settings(max_examples=60)
@given(
    budget=st.floats(0.05, 5.0),
    epochs=st.integers(1, 7),
    rows=st.integers(1, 60).map(lambda n: 2 * n),
    batch=st.integers(1, 50),
    operations=st.floats(0.5, 1e12),
    dearer=st.floats(0.5, 3.0),
    accuracy=st.floats(0, 1),
)
def test_budget_is_never_exceeded_and_result_never_worse(
    budget: float, epochs: int, rows: int, batch: int, operations: float, dearer: float, accuracy: float
) -> None:
    def script(edits: tuple[Edit, ...]) -> Outcome:
        chance = accuracy if not edits else (len(repr(edits)) % 7) / 7
        return Outcome(chance, {"bad_rate": 1.0}, operations=operations * (dearer if edits else 1))

    result = _fit(
        script, train=_data(rows), validation_data=_data(rows), epochs=epochs, batch_size=batch, budget=budget
    )
    assert result.cost <= budget
    assert np.isnan(result.score) or result.score >= result.baseline_score
    baseline = result.cost - sum(a.cost for a in result.attempts if a.verdict != "original")
    least = 1 - 1e-6 if not result.baseline_ended else 0
    assert not result.attempts or least <= baseline <= 1.6, "paused, and few validation rows: training rows are judged"
    if budget < 1:
        assert result.attempts == [] or result.cost < 1


def test_budget_below_one_training() -> None:
    result = _fit(_script("bad_rate", cured_by={}), budget=0.5, epochs=10)
    assert (result.stopped_by, result.attempts) == ("budget", [])
    assert 0.4 < result.cost <= 0.5
    assert not np.isnan(result.score)


def test_stream_length_is_measured_in_the_first_epoch() -> None:
    x, y = _data()
    stream = [(x[i : i + 20], y[i : i + 20]) for i in range(0, ROWS, 20)]
    result = _fit(
        _script("bad_rate", cured_by={"bad_rate": CLIP}), train=stream_of(stream), validation_data=stream_of(stream)
    )
    assert result.status == "repaired"
    assert result.cost == 1 + sum(a.cost for a in result.attempts)
    assert all(a.cost == 1.0 for a in result.attempts)


class stream_of:  # noqa: N801 - reads like a function
    """A loader of the simplest kind."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Any:
        return iter(self._batches)


def test_time_budgets() -> None:
    result = _fit(_script("bad_rate", cured_by={}), budget=timedelta(seconds=1))
    assert result.stopped_by in ("budget", "done")
    nothing = _fit(_script("bad_rate", cured_by={"bad_rate": RATE}), budget=None)
    assert nothing.status == "repaired"


def test_hold_out_is_seeded_with_and_without_repair() -> None:
    script = _script("bad_rate", cured_by={})
    results = [_fit(script, validation_data=None, seed=s, repair=r) for s, r in ((0, True), (0, False), (1, False))]
    assert results[0].baseline_score == results[1].baseline_score
    assert results[1].status == "unrepaired"


@pytest.mark.parametrize("rows", [2, 4, 24])
def test_few_rows_are_judged_on_training_rows(rows: int, tmp_path: Any) -> None:
    script = _script("bad_rate", cured_by={"bad_rate": RATE})
    result = _fit(script, train=_data(rows), validation_data=None)
    assert (result.status, result.judged_on, result.score) == ("repaired", "training", 1.0)
    report = result.report()
    assert "shows that the model can fit them, not that it generalizes" in " ".join(str(report).split())
    assert f"training accuracy: {result.baseline_score:.4g} → 1" in str(report)
    assert "not that it generalizes" in report.to_html()
    assert report.to_dict()["result"]["judged_on"] == "training"


def test_few_validation_rows_that_are_the_training_rows() -> None:
    x, y = _data(4)
    script = _script("bad_rate", cured_by={"bad_rate": RATE})
    same, other = (_fit(script, train=(x, y), validation_data=(v, y)) for v in (x[::-1][::-1].copy(), x + 1))
    assert (same.judged_on, same.status) == ("training", "repaired")
    assert other.judged_on == "validation"
    assert _fit(script, train=_data(), validation_data=_data()).judged_on == "validation"


def test_failed_comparison_of_few_rows_does_not_end_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **options: Any) -> bool:
        raise InputError("the rows can't be compared")

    monkeypatch.setattr("autotrainer.api.fit_data.can_hold_out", fail)
    data, script = _data(4), _script("bad_rate", cured_by={"bad_rate": RATE})
    with caplog.at_level("WARNING", logger="autotrainer"):
        assert _fit(script, train=data, validation_data=data).judged_on == "validation"
    assert "the rows can't be compared" in caplog.text
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    caplog.clear()
    _fit(script, train=data, validation_data=data)
    assert caplog.text == ""


def test_random_state_is_restored() -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]

    def script(edits: tuple[Edit, ...]) -> Outcome:
        np.random.rand()
        return Outcome()

    _fit(script)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    with pytest.raises(ZeroDivisionError):
        _fit(lambda edits: Outcome(raises={0: ZeroDivisionError(str(np.random.rand()))}))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_off_switch_disables_monitoring_and_repair(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AUTOTRAINER_OFF", "1")
    result = _fit(_script("not_learning", cured_by={}), log_dir=tmp_path)
    assert (result.status, result.findings, result.attempts, len(result.history["loss"])) == ("healthy", [], [], 4)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"repair": False}, {"metric": lambda y, p: float(np.mean((p > 0.5) == y))}])
@pytest.mark.parametrize(("accuracy", "status"), [(0.5, "unrepaired"), (0.9, "healthy")])
def test_level_of_a_constant_prediction_is_never_healthy(options: dict[str, Any], accuracy: float, status: str) -> None:
    assert _fit(lambda edits: Outcome(accuracy), **options).status == status


def test_model_builder_is_accepted() -> None:
    result = autotrainer.fit(
        lambda: FakeModel(lambda edits: Outcome(0.9)), _data(), _data(), epochs=2, progress=False, budget=1
    )
    assert result.status == "healthy"


def test_log_dir_has_one_run_log_per_training(tmp_path: Any) -> None:
    result = _fit(_script("bad_rate", cured_by={"bad_rate": CLIP}), log_dir=tmp_path)
    assert len(list(tmp_path.glob("run-*.jsonl"))) == 1 + len(result.attempts)


def test_save_writes_all_files(tmp_path: Any) -> None:
    result = _fit(_script("bad_rate", cured_by={"bad_rate": CLIP}))
    folder = result.save(tmp_path / "out")
    assert {p.name for p in folder.iterdir()} == {
        "model.txt",
        "plan.json",
        "attempts.json",
        "report.json",
        "report.html",
    }
    assert autotrainer.load_plan(folder / "plan.json") == result.plan
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can't write"):
        result.save(tmp_path / "file")
    _fit(lambda edits: Outcome()).save(folder)
    assert not (folder / "plan.json").exists(), "a plan of an earlier result does not belong to this model"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"strategy": "balanse"}, ConfigError, "did you mean 'balance'"),
        ({"metric": "acuracy"}, ConfigError, "did you mean 'accuracy'"),
        ({"metric": 3}, ConfigError, "callable"),
        ({"mode": "up"}, ConfigError, "mode must be one of max, min or None"),
        ({"metric": "loss", "mode": "max"}, ConfigError, "mode"),
        ({"select": "bad_rat"}, ConfigError, "did you mean 'bad_rate'"),
        ({"ignore": ["bad_rat"]}, ConfigError, "did you mean 'bad_rate'"),
        ({"thresholds": {"bad_rate.x": 1}}, ConfigError, "threshold"),
        ({"max_change": 4}, ConfigError, "max_change"),
        ({"max_change": True}, ConfigError, "max_change"),
        ({"keep": "hiden"}, ConfigError, "did you mean 'hidden'"),
        ({"keep": [3]}, ConfigError, "keep"),
        ({"forbid": "clip_gradient"}, ConfigError, "did you mean 'clip_gradients'"),
        ({"budget": 0}, BudgetError, "allows no work"),
        ({"budget": -1.5}, BudgetError, "allows no work"),
        ({"budget": float("nan")}, BudgetError, "allows no work"),
        ({"budget": timedelta(0)}, BudgetError, "allows no work"),
        ({"budget": "much"}, BudgetError, "timedelta"),
        ({"epochs": 0}, ConfigError, "epochs"),
        ({"epochs": 2.5}, ConfigError, "epochs"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"workers": 0}, ConfigError, "workers"),
        ({"resume": True}, ConfigError, "needs log_dir"),
        ({"resume": 1}, ConfigError, "resume must be True or False"),
        ({"repair": "yes"}, ConfigError, "repair"),
        ({"fit_args": [1]}, ConfigError, "fit_args"),
        ({"strategy": None}, ConfigError, "unknown strategy"),
        ({"select": 3}, ConfigError, "select"),
        ({"thresholds": 3}, ConfigError, "dict of numbers"),
        ({"log_dir": 3}, ConfigError, "log_dir"),
        ({"train": (np.zeros((4, 2)), np.array(["a"] * 4))}, DataError, "targets must be a numeric array"),
        ({"train": [(np.zeros((4, 2)), np.zeros(4))] * 2}, DataError, "the targets are a tuple of 2 arrays"),
        ({"train": (np.zeros((4, 2)), np.zeros(4), -np.ones(4))}, DataError, "sample weights"),
        ({"train": (np.zeros((4, 2)), np.zeros(4), np.ones((4, 2)))}, DataError, "sample weights"),
        ({"train": stream_of([]), "validation_data": None}, DataError, "validation_data"),
        ({"train": (np.zeros((4, 2)), np.zeros(3))}, DataError, "rows"),
        ({"validation_data": (np.zeros((4, 2, 2)), np.zeros(4))}, DataError, "validation_data"),
        ({"validation_data": (np.zeros((4, 2)), np.zeros((4, 1)))}, DataError, "targets"),
        (
            {"validation_data": (np.zeros((4, 3)), np.zeros(4))},
            DataError,
            "inputs of shape (*, 3), train_data of shape (*, 2)",
        ),
        ({"validation_data": ((np.zeros((4, 3)),), np.zeros(4))}, DataError, "pass both in the same form"),
        ({"test_data": (np.zeros((4, 2, 2)), np.zeros(4))}, DataError, "test_data"),
        ({"metric": lambda y, p: p}, InputError, "one number"),
        ({"metric": lambda y, p: "good"}, InputError, "one number"),
        ({"metric": "r2", "validation_data": (np.zeros((4, 2)), np.zeros(4))}, InputError, "does not fit"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        _fit(lambda edits: Outcome(), **options)


def test_unsupported_models_are_rejected() -> None:
    with pytest.raises(InputError, match="not a supported model"):
        autotrainer.fit(3, _data(), epochs=1)
    with pytest.raises(ConfigError, match="without arguments"):
        autotrainer.fit(lambda size: size, _data(), epochs=1)


def test_callable_metrics_are_compared_by_bootstrap() -> None:
    def error(y: np.ndarray, p: np.ndarray) -> float:
        return float(np.mean(np.abs(y - p)))

    result = _fit(_script("bad_rate", cured_by={"bad_rate": RATE}), metric=error, mode="min")
    assert (result.status, result.baseline_score, result.score) == ("repaired", 0.5, 0.0)
    assert (result.metric, result.mode) == ("error", "min")
    result = _fit(_script("bad_rate", cured_by={"bad_rate": RATE}), metric="loss")
    assert (result.status, result.baseline_score, result.score) == ("repaired", 0.5, 0.0)
