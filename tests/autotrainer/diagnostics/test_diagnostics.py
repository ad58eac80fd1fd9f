"""Diagnostics of `fit`: which ones run, when, and what they may cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import autotrainer
from autotrainer import registry
from autotrainer.adapter.spec import Evaluation
from autotrainer.diagnostics import diagnostics
from autotrainer.diagnostics.diagnostics import MISMATCH_FACTS, cause_unknown, data_facts
from autotrainer.diagnostics.lr_range_test import rate_in_doubt
from autotrainer.edits import Edit
from autotrainer.records.data import ArrayData, concatenate_batches
from autotrainer.records.facts import FACTS
from autotrainer.records.findings import Finding, Severity
from autotrainer.records.history import RunHistory
from autotrainer.records.task import LossInfo, TaskContext
from autotrainer.rule import Rule
from autotrainer.scoring.metric_selection import MetricSelection
from autotrainer.scoring.scorer import Scorer
from autotrainer.testing import FakeBackend, FakeModel, Outcome
from autotrainer.training.budget import Budget


def _finding(problem: str, severity: Severity = Severity.ERROR, root: str | None = None) -> Finding:
    return Finding(problem, "AT000", severity, 0.9, "It is.", caused_by=root)


@pytest.mark.parametrize(
    ("findings", "above", "unknown"),
    [
        ([], True, False),
        ([], False, True),
        ([_finding("not_learning")], False, True),
        ([_finding("not_learning"), _finding("data_leakage")], False, True),
        ([_finding("data_leakage")], True, False),
        ([_finding("overfitting")], True, True),
        ([_finding("improper_loss"), _finding("not_learning", root="improper_loss")], False, False),
        ([_finding("dying_relu", Severity.WARNING), _finding("not_learning", root="dying_relu")], False, True),
        ([_finding("overfitting", Severity.WARNING)], True, False),
        ([_finding("nonfinite")], False, False),
    ],
)
def test_cause_is_unknown_only_after_a_poor_training_without_a_cause(
    findings: Sequence[Finding], above: bool, unknown: bool
) -> None:
    assert cause_unknown(findings, above) is unknown


def test_failed_data_diagnostic_is_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(*_: object) -> dict[str, float]:
        raise MemoryError

    monkeypatch.setattr(diagnostics, "shared_inputs", fails)
    rows = ArrayData(np.zeros((4, 2)), np.arange(4))
    unused: Any = None
    failing = diagnostics.Diagnostics(unused, unused, unused, rows, rows, frozenset(FACTS), seed=0)

    assert failing.of_data() == {}
    assert "MemoryError" in caplog.text


@pytest.mark.parametrize(
    ("root", "evidence", "repairs", "doubt"),
    [
        (None, {}, ("scale_learning_rate",), True),
        (None, {"typical_step": 1e-6}, ("scale_learning_rate",), False),
        ("improper_loss", {}, ("scale_learning_rate",), False),
        (None, {}, ("fix_loss",), False),
    ],
)
def test_rate_is_in_doubt_without_a_measured_step_size(
    root: str | None, evidence: dict[str, float], repairs: tuple[str, ...], doubt: bool
) -> None:
    finding = replace(_finding("not_learning", root=root), evidence=evidence, repairs=repairs)
    assert rate_in_doubt([finding]) is doubt
    assert not rate_in_doubt([replace(finding, severity=Severity.WARNING)])


def test_only_data_facts_are_shared_between_trainings() -> None:
    facts = dict.fromkeys(FACTS, 0.5)
    assert set(facts) - set(data_facts(facts)) >= {
        "train_score", "permuted_score", "input_gain", "input_gain_error", "held_out_score", "suggested_rate"
    }  # fmt: skip
    assert {"shared_inputs", "constant_targets", "linear_score", "trivial_score"} <= set(data_facts(facts))


def test_baseline_models_of_a_recorded_training_are_fitted_again_whether_or_not_they_were_ahead() -> None:
    rows = ArrayData(INPUTS[:100], LABELS[:100])
    context = TaskContext(loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), input_kind="values")
    trainer: Any = None
    for asked, fitted in (({}, False), ({"simple_rows": 100.0, "held_out_score": 0.8}, True)):
        scorer = Scorer(MetricSelection("auto"), context, rows)
        restored = diagnostics.Diagnostics(trainer, scorer, Budget(1.0), rows, rows, frozenset(FACTS), seed=0)
        restored.restore(replace(context, asked=asked))
        assert (restored.comparison is not None) is fitted


def test_labels_are_compared_on_the_columns_that_were_predicted() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    labels = (x[:, [0]] > np.linspace(-1, 1, 300)).astype(np.float64)
    context = TaskContext(loss=LossInfo("bce", "binary_cross_entropy", "logits"), output_units=300)
    rows = ArrayData(x, labels)
    scorer = Scorer(MetricSelection("auto"), context, rows)
    compared = diagnostics.BaselineComparison.fit(rows, rows, None, scorer.targets, context, 0)
    assert compared is not None
    assert compared.columns is not None
    left_out = np.setdiff1d(np.arange(300), compared.columns)
    outputs = 2 * labels - 1
    outputs[:, left_out] *= -1
    score = compared._score(Evaluation(outputs, labels, 0.1), scorer, context)
    assert score is not None
    assert score.value == 1


CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)


@pytest.mark.parametrize(
    ("held_rows", "wrong", "held_wrong", "facts"),
    [
        pytest.param(16, [1, 1], [1, 1], {"simple_crossed": 1, "held_out_rows": 64, "held_out_score": 0.75}, id="both"),
        pytest.param(16, None, [1, 1], {"held_out_score": 0.75}, id="good in training"),
        pytest.param(16, [1, 1], None, {"held_out_score": 1}, id="good in validation"),
        pytest.param(80, [1, 1], [1, 1], {"held_out_score": 0.75}, id="enough validation rows"),
    ],
)
def test_few_validation_rows_are_supplemented_by_training_rows(
    held_rows: int, wrong: list[int] | None, held_wrong: list[int] | None, facts: dict[str, float]
) -> None:
    noise = np.random.default_rng(0)
    x = np.tile(CORNERS, ((64 + held_rows) // 4, 1))
    labels = (x[:, 0] != x[:, 1]).astype(np.int64)
    data = ArrayData(x + 0.05 * noise.normal(size=x.shape), labels)
    train, held_out = data.take(noise.permutation(64)), data.take(np.arange(64, len(x)))
    context = TaskContext(loss=LossInfo("bce", "binary_cross_entropy", "probabilities"), output_units=1)
    scorer = Scorer(MetricSelection("auto"), context, train)
    compared = diagnostics.BaselineComparison.fit(train, held_out, None, scorer.targets, context, 0)
    assert compared is not None

    def evaluate(rows: ArrayData) -> Evaluation:
        missed = held_wrong if rows is compared.held_out else wrong
        flipped = (np.round(rows.inputs) == missed).all(axis=1) if missed else np.zeros(rows.rows, bool)
        return Evaluation(np.where(flipped, 1 - rows.targets, rows.targets)[:, None] * 1.0, rows.targets, 0.1)

    network: Any = SimpleNamespace(evaluate=evaluate)
    run: Any = SimpleNamespace(evaluation=None, spend=lambda rows, training: True, context=context)
    found = compared.compare(network, run, scorer)
    assert {name: found.get(name, 0) for name in {"simple_crossed"} | set(facts)} == {"simple_crossed": 0} | facts


# -- in a scripted `fit` --------------------------------------------------------------------------------------------


class Recording(Rule):
    """Records its contexts; finds an error while an epoch's value says so."""

    problem = "overfitting"
    code = "AT601"
    needs = frozenset({"epochs", *FACTS})
    contexts: list[TaskContext]

    def check(self, history: RunHistory, context: TaskContext) -> Finding | None:
        self.contexts.append(context)
        bad = history.epochs("bad")[1]
        return self.finding(Severity.ERROR, 0.9, "It is.", {}) if bad.size and bad[-1] else None


class WithoutFacts(Recording):
    """The same, but needs no facts."""

    needs = frozenset({"epochs"})


OUTCOME = {"above_constant", "metric_score", "constant_score", "judged_rows", "judged_in_training"}
"""Facts of the outcome, which every training has."""
ROWS = 400
LABELS = np.tile([0, 1, 1, 0], ROWS // 4)
INPUTS = np.random.default_rng(0).normal(size=(ROWS, 3)) + LABELS[:, None]


@pytest.fixture(autouse=True)
def _fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()
    monkeypatch.setattr(registry, "repairs", lambda: ())
    monkeypatch.setattr(registry, "backends", lambda: (backend,))


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[autotrainer.Result, dict[str, float]]]:
    def fit(
        bad: float, rule: type[Recording] = Recording, accuracy: float = 0.5, **options: Any
    ) -> tuple[autotrainer.Result, dict[str, float]]:
        rule.contexts = []
        monkeypatch.setattr(registry, "rules", lambda: (rule,))

        def script(edits: tuple[Edit, ...]) -> Outcome:
            return Outcome(accuracy, {"bad": bad}, operations=50.0)

        data = (INPUTS, LABELS)
        given = {"validation_data": data, "epochs": 40, "budget": 1.5, "progress": False} | options
        result = autotrainer.fit(FakeModel(script), given.pop("train", data), given.pop("validation_data"), **given)
        return result, dict(rule.contexts[-1].asked)

    return fit


def test_healthy_training_gets_only_data_diagnostics(fitted: Callable[..., Any]) -> None:
    result, facts = fitted(0.0, accuracy=1.0)
    assert result.cost == 1.0
    assert {name: value for name, value in facts.items() if name not in OUTCOME | MISMATCH_FACTS} == {
        "constant_targets": 0.0, "shared_inputs": 400.0, "shared_input_share": 1.0, "expected_shared_share": 0.0
    }  # fmt: skip


def test_poor_training_gets_all_diagnostics_within_a_twentieth(fitted: Callable[..., Any]) -> None:
    result, facts = fitted(1.0)
    assert 1.0 < result.cost <= 1.05
    assert set(facts) >= {
        "train_score", "permuted_score", "input_gain", "input_gain_error", "held_out_score", "trivial_score",
        "linear_score", "kernel_score", "neighbour_score", "tree_score", "held_out_rows", "simple_rows",
        "simple_features",
        "simple_gap", "simple_gap_error", "shared_inputs", *OUTCOME,
    }  # fmt: skip
    assert "suggested_rate" not in facts, "no repair needs it"
    assert facts["linear_score"] > 0.8
    assert facts["held_out_score"] == pytest.approx(0.5, abs=0.1)
    assert facts["trivial_score"] == pytest.approx(0.5, abs=0.1)
    assert facts["simple_features"] == 3


def test_diagnostics_are_deterministic(fitted: Callable[..., Any]) -> None:
    assert fitted(1.0)[1] == fitted(1.0)[1]
    assert fitted(1.0, seed=1)[1] != fitted(1.0)[1]


def test_diagnostics_that_no_rule_needs_do_not_run(fitted: Callable[..., Any]) -> None:
    result, facts = fitted(1.0, WithoutFacts)
    assert (result.cost, set(facts)) == (1.0, OUTCOME)


def test_diagnostics_stay_within_the_budget(fitted: Callable[..., Any]) -> None:
    for budget in (0.5, 1.0, 1.005, 1.05):
        result, facts = fitted(1.0, budget=budget)
        assert result.cost <= budget
        assert ("train_score" in facts) is (budget >= 1.05)
        assert "linear_score" in facts, "they take a moment, and a verdict needs them"


def test_few_rows_get_no_diagnostics(fitted: Callable[..., Any]) -> None:
    few = (INPUTS[:16], LABELS[:16])
    result, facts = fitted(1.0, train=few, validation_data=few)
    assert result.cost == 1.0
    assert "train_score" not in facts


def test_streams_get_no_diagnostics_if_the_backend_reads_none(fitted: Callable[..., Any]) -> None:
    batches = [(INPUTS[i : i + 50], LABELS[i : i + 50]) for i in range(0, ROWS, 50)]

    class Batches:
        def __iter__(self) -> Any:
            return iter(batches)

    result, facts = fitted(1.0, train=Batches(), validation_data=(INPUTS, LABELS))
    assert (result.cost, set(facts)) == (1.0, OUTCOME)


def test_failed_diagnostic_does_not_fail_the_training(
    fitted: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr("autotrainer.diagnostics.baseline_comparison.make_problem", broken)
    result, facts = fitted(1.0)
    assert result.status == "unrepaired"
    assert "linear_score" not in facts
    assert "diagnostics failed" in caplog.text


def test_replay_has_the_same_facts(fitted: Callable[..., Any], tmp_path: Path) -> None:
    _, facts = fitted(1.0, log_dir=tmp_path)
    (log,) = tmp_path.glob("run-*.jsonl")
    Recording.contexts = []
    report = autotrainer.replay(log)
    assert [f.problem for f in report.findings] == ["overfitting"]
    assert dict(Recording.contexts[-1].asked) == facts


# -- rows of streams ------------------------------------------------------------------------------------------------


def test_batches_are_stacked_in_their_own_structure() -> None:
    parts = [np.arange(6).reshape(3, 2), np.arange(6, 12).reshape(3, 2)]
    targets = [np.zeros(3), np.ones(3)]
    for form in (lambda a: a, lambda a: (a, -a), lambda a: [a, -a], lambda a: {"b": a, "a": -a}):
        data = concatenate_batches([form(part) for part in parts], targets, 5)
        assert isinstance(data, ArrayData)
        assert data.rows == 5
        first = data.inputs["b"] if isinstance(data.inputs, dict) else data.inputs
        first = first[0] if isinstance(first, tuple) else first
        np.testing.assert_array_equal(first, np.arange(10).reshape(5, 2))
        assert data.targets.tolist() == [0, 0, 0, 1, 1]


def test_batches_of_different_structure_are_not_stacked() -> None:
    assert concatenate_batches([], [], 5) is None
    assert concatenate_batches([np.ones((2, 3)), np.ones((2, 4))], [np.ones(2), np.ones(2)], 5) is None
    assert concatenate_batches([np.ones((2, 3))] * 2, [np.ones(2), np.ones((2, 1))], 5) is None
    assert concatenate_batches(["text"], [np.ones(2)], 5) is None
